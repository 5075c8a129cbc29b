"""
Open ports that are not expected.

The kernel has no event for a new listener: PORTS_INTERVAL is the latency, and a look is cheap.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial

from mender_monitor_py import portlist
from mender_monitor_py.baseline import inline
from mender_monitor_py.commandline import printable
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.images import Images
from mender_monitor_py.host.openports import OpenPorts
from mender_monitor_py.host.procfs import DELETED, Process, Procfs
from mender_monitor_py.model import Details, Observation, Subject
from mender_monitor_py.portlist import Entry, Listener, Port
from mender_monitor_py.proclist import brought_by
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition, Field, Report
from mender_monitor_py.subsystems.expected import Baselined, Expected
from mender_monitor_py.subsystems.fields import choice, choices, count, interval
from mender_monitor_py.subsystems.findings import Findings


def _entries(text: str) -> tuple[Entry, ...]:
    return inline(text, Entry.parse, portlist.begins_entry)


_ALLOW = Field("PORTS_ALLOW", _entries, "entries besides the baseline, as tcp 22 sshd /usr/sbin/sshd")
_SCOPE = Field(
    "PORTS_SCOPE", choice("external", "all"), "external: not on loopback alone", default="external"
)
_PROTOCOLS = Field("PORTS_PROTOCOLS", choices(*portlist.PROTOCOLS), "tcp, udp", default="tcp udp")
_NAMESPACES = Field(
    "PORTS_NAMESPACES", choice("own", "all"), "all: other network namespaces too", default="own"
)
_INTERVAL = Field("PORTS_INTERVAL", interval, "time from look to look", default="2s")
_MAX_ALERTS = Field("PORTS_MAX_ALERTS", count, "new findings in one look with an alert each", default="20")


class PortsCheck(Baselined[Entry, Port]):
    """A port is open that neither the baseline nor PORTS_ALLOW expects, or another executable holds it."""

    subsystem = "ports"
    summary = "open ports that are not expected"
    fields = (_ALLOW, _SCOPE, _PROTOCOLS, _NAMESPACES, _INTERVAL, _MAX_ALERTS)
    columns = ("PROTOCOL", "PORT", "PROCESS", "EXECUTABLE")

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.inline = definition.value(_ALLOW)
        self._loopback_too: bool = definition.value(_SCOPE) == "all"
        self._protocols: tuple[str, ...] = definition.value(_PROTOCOLS)
        self._all_namespaces: bool = definition.value(_NAMESPACES) == "all"
        self._interval: float = definition.value(_INTERVAL)
        self._max_alerts: int = definition.value(_MAX_ALERTS)

    entry = staticmethod(Entry.parse)

    @staticmethod
    def led(entry: Entry, /) -> Entry:
        return entry.leading(os.path.realpath)

    async def survey(self, host: Host) -> list[Port]:
        ports = self._open(host)
        try:
            listeners = ports.look(partial(self._relevant, self.inline), again=True) or []
        finally:
            ports.close()
        return portlist.ports(listeners, ())[1]

    def file_of(self, host: Host, thing: Port, /) -> str:
        # Who runs a file that was replaced was there before: what he opens is not of the one who replaced it.
        if thing.holder is None or (host.procfs.executable(thing.holder.pid) or DELETED).endswith(DELETED):
            return ""
        images = Images(host.procfs, scripts=True, kernel_threads=False)
        script = images.script(thing.holder.pid, thing.holder.executable)
        return brought_by(thing.holder.executable, script)

    async def run(self, host: Host, report: Report) -> None:
        expected = Expected(host, report, self, self.inline)
        level = self.settings.default_alert_level
        findings = Findings(
            report, self._max_alerts, "Many unexpected open ports", self.id.name, level, remembers=True
        )
        ports = self._open(host)
        look_again = True
        try:
            while True:
                try:
                    look_again = expected.refresh() or look_again
                    wanted = partial(self._relevant, expected.entries)
                    listeners = ports.look(wanted, again=look_again)
                    if listeners is not None:
                        unexpected = portlist.ports(listeners, expected.entries)[1]
                        if unexpected and expected.follow_links():
                            unexpected = portlist.ports(listeners, expected.entries)[1]
                        look_again = False
                        found = observations(unexpected, host.procfs, level)
                        await findings.look(found, "The port is not open any more, or is expected now")
                        many = "there are too many open ports, not all of them are looked at"
                        report.note("many", many if ports.crowded else "")
                except UnknownError as error:
                    look_again = True
                    report.unknown(str(error))
                await report.pause(self._interval, expected.changed)
        finally:
            expected.close()
            ports.close()

    def _open(self, host: Host) -> OpenPorts:
        return OpenPorts(host.procfs, host.replaced, self._protocols, all_namespaces=self._all_namespaces)

    def _relevant(self, entries: tuple[Entry, ...], listener: Listener) -> bool:
        return portlist.relevant(listener, entries, loopback_too=self._loopback_too)


def observations(ports: Iterable[Port], procfs: Procfs, level: str) -> Iterator[Observation]:
    """The findings that *ports* are."""
    known: dict[int, Process | None] = {}
    for port in ports:
        pid = port.holder.pid if port.holder else 0
        if pid and pid not in known:
            known[pid] = procfs.describe(pid)
        yield Observation(
            level=level,
            name=f"Unexpected open port {port.protocol}/{port.number}",
            subject=Subject(printable(port.subject), "ports", "open"),
            details=Details(describe(port, known.get(pid))),
            key=port.key,
            cleared_status="closed",
        )


def describe(port: Port, who: Process | None) -> str:
    """What a person needs to judge an open port."""
    lines = [f"{port.protocol}/{port.number} is open on {', '.join(port.addresses)}"]
    if port.hidden:
        lines.append("it hides: /proc/net has it, the socket diagnostics of the kernel do not")
    if port.namespace:
        lines.append(f"network namespace: {printable(port.namespace)}")
    if port.holder is None:
        lines.append("no process holds it, as far as /proc shows: the kernel itself, or a hidden process")
    elif who is None:
        lines.append(f"held by pid {port.holder.pid}, {printable(port.holder.executable)}, which has ended")
    else:
        lines += who.lines()
    if port.others:
        others = ", ".join(f"{other.pid} {printable(other.executable)}" for other in port.others[:10])
        lines.append(f"held too by: {others}")
    if not port.hidden:
        lines.append(f"expected by the entry: {port.row}")
    return "\n".join(lines)


CHECK = PortsCheck
