"""
A network interface over which more goes than TRAFFIC_LIMIT within TRAFFIC_WINDOW.

Its counters are looked at each TRAFFIC_INTERVAL. Whose traffic it is is looked up only while there is some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from mender_monitor_py.commandline import printable
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.interfaces import Interfaces, LinkWatch
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.fields import choice, count, interval, size
from mender_monitor_py.subsystems.findings import Findings
from mender_monitor_py.subsystems.trafficprocesses import Connections
from mender_monitor_py.trafficmeter import DEFAULT, MAX_INTERFACES, Link, Meter, Reading, choose, exceeds
from mender_monitor_py.trafficreport import amount, describe, headline, span
from mender_monitor_py.trafficshares import Shares

SETTLE_S = 0.1  # news of interfaces come in groups
_STEP = 100  # what is a hundredth of the limit is worth to be looked at, and to be remembered


def _words(text: str) -> tuple[str, ...]:
    if not text.split():
        raise ValueError("name an interface, a glob, or default")
    return tuple(dict.fromkeys(text.split()))


_INTERFACE = Field(
    "TRAFFIC_INTERFACE", _words, "a name, a glob, or default: that of the default route", default=DEFAULT
)
_LIMIT = Field("TRAFFIC_LIMIT", size, "bytes that may go over an interface", default="1M")
_WINDOW = Field("TRAFFIC_WINDOW", interval, "within this time, which slides", default="1h")
_DIRECTION = Field(
    "TRAFFIC_DIRECTION", choice("tx", "rx", "both"), "tx: sent, rx: received, both: together", default="tx"
)
_INTERVAL = Field("TRAFFIC_INTERVAL", interval, "time from look to look", default="10s")
_MAX_ALERTS = Field("TRAFFIC_MAX_ALERTS", count, "new findings in one look with an alert each", default="20")


class TrafficCheck(Check):
    """More has gone over an interface than may."""

    subsystem = "traffic"
    summary = "a network interface with high data transfer"
    fields = (_INTERFACE, _LIMIT, _WINDOW, _DIRECTION, _INTERVAL, _MAX_ALERTS)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.interfaces: tuple[str, ...] = definition.value(_INTERFACE)
        self.limit: int = definition.value(_LIMIT)
        self.window: float = definition.value(_WINDOW)
        self.direction: str = definition.value(_DIRECTION)
        self.interval: float = definition.value(_INTERVAL)
        self.max_alerts: int = definition.value(_MAX_ALERTS)
        if self.interval > self.window:
            raise definition.error(_INTERVAL.name, "is longer than TRAFFIC_WINDOW")

    async def run(self, host: Host, report: Report) -> None:
        watch = _Watch(self, host, report)
        try:
            watch.open()
            await watch.run()
        finally:
            watch.close()


class _Watch:
    """One run of the check; a listener of the interfaces' news."""

    def __init__(self, check: TrafficCheck, host: Host, report: Report) -> None:
        self._check = check
        self._host = host
        self._report = report
        self._findings = Findings(
            report,
            check.max_alerts,
            f"Many interfaces with high data transfer: {check.id.name}",
            check.id.name,
            check.settings.default_alert_level,
        )
        self._meter = Meter(check.interfaces, check.window, check.interval, host.clock.now(), report.memory)
        self._wake = asyncio.Event()
        self._interfaces: Interfaces | None = None
        self._events: LinkWatch | None = None
        self._connections: Connections | None = None
        self._links: dict[int, Link] = {}
        self._defaults: set[int] = set()
        self._stale = True
        self._renamed: dict[str, str] = {}
        self._attributed: dict[str, int] | None = None
        self._remembered: dict[str, int] | None = None

    def open(self) -> None:
        """Raises UnknownError."""
        try:
            self._interfaces = Interfaces()
            self._events = LinkWatch(self, routes=DEFAULT in self._check.interfaces)
        except OSError as error:
            raise UnknownError(f"the kernel does not tell of the interfaces: {error.strerror}") from error
        try:
            self._connections = Connections(self._host.procfs, max(self._check.limit // 1000, 1024))
        except OSError as error:
            self._cannot_attribute(error)

    def close(self) -> None:
        """The last bytes are counted and remembered: after a reboot the counters do not show them."""
        try:
            if self._remembered is not None:
                with suppress(OSError):
                    self._count()
                self._report.remember(self._meter.encode(self._host.clock.now()))
        finally:
            for one in (self._interfaces, self._events, self._connections):
                if one is not None:
                    one.close()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look()
            except OSError as error:
                self._stale = True
                self._report.unknown(f"the kernel does not tell of the interfaces: {error.strerror or error}")
            await self._report.pause(self._check.interval, self._wake)
            await asyncio.sleep(SETTLE_S if self._wake.is_set() else 0)

    # News of the interfaces

    def link_there(self, index: int, link: Link, reading: Reading | None) -> None:
        if self._links.get(index) != link:
            if index not in self._links and reading is not None:
                self._meter.appeared(index, reading)
            self._changed()

    def link_gone(self, index: int, reading: Reading | None) -> None:
        if reading is not None:
            self._meter.vanished(index, reading, self._host.clock.boottime())
        self._links.pop(index, None)
        self._changed()

    def default_route_changed(self) -> None:
        self._changed()

    def links_lost(self) -> None:
        self._changed()

    def _changed(self) -> None:
        self._stale = True
        self._wake.set()

    # A look

    async def _look(self) -> None:
        missing = self._count()
        now = self._host.clock.boottime()
        sums = {name: count.of(self._check.direction) for name, count in self._meter.sums(now).items()}
        limit, is_bad = self._check.limit, self._report.is_bad
        bad = {name: exceeds(total, limit, bad=is_bad(name)) for name, total in sums.items()}
        news = [name for name in bad if bad[name] != is_bad(name)]
        self._attribute(now, at_once=bool(news))
        self._remember(at_once=bool(news))
        self._tell_notes(sums, missing)
        nothing = len(missing) == len(self._check.interfaces)
        if news or not nothing:
            await self._judge(bad, news, now)
        if nothing:
            self._report.unknown(", ".join(missing))

    def _count(self) -> list[str]:
        """Read the counters. Returns why each word of TRAFFIC_INTERFACE that means nothing does."""
        assert self._interfaces is not None
        assert self._events is not None
        self._events.read()
        counters = self._interfaces.counters()
        if self._stale or counters.keys() - self._links.keys():
            self._refresh()
        readings = {i: Reading(self._links[i].name, counters[i]) for i in self._links if i in counters}
        chosen = choose(self._check.interfaces, self._links, self._defaults)
        indexes = [index for found in chosen.values() for index in found]
        self._meter.look(self._host.clock.now(), readings, indexes)
        return [self._why_missing(word) for word, found in chosen.items() if not found]

    def _refresh(self) -> None:
        """Who is there, and where the default routes go."""
        assert self._interfaces is not None
        self._stale = False
        before, self._links = self._links, self._interfaces.links()
        for index, link in self._links.items():
            if index in before and before[index].name != link.name:
                self._renamed = {before[index].name: link.name, **self._renamed}
        there = {link.name for link in self._links.values()}
        self._renamed = {old: new for old, new in self._renamed.items() if old not in there and new in there}
        if DEFAULT in self._check.interfaces:
            self._defaults = self._interfaces.defaults()

    def _why_missing(self, word: str) -> str:
        if word == DEFAULT:
            return "there is no default route"
        if word in self._renamed:
            return f"no interface {printable(word)}: it is called {printable(self._renamed[word])} now"
        return f"no interface {printable(word)}"

    def _attribute(self, now: float, *, at_once: bool) -> None:
        """Find out whose traffic it is, when there was some."""
        if self._connections is None:
            return
        totals = self._meter.totals
        living = at_once or self._attributed is None or self._is_much(self._attributed, totals)
        if not (self._connections.any_ended() or living):
            return
        shares: dict[int, Shares] = {
            index: self._meter.interfaces[name].shares
            for index, name in self._meter.names.items()
            if name in self._meter.interfaces
        }
        assert self._interfaces is not None
        try:
            self._connections.look(now, self._interfaces.addresses(), shares, living=living)
        except OSError as error:  # what goes over the interface is known all the same
            self._cannot_attribute(error)
        if living:
            self._attributed = totals

    def _cannot_attribute(self, error: OSError) -> None:
        self._report.note("sockets", f"processes are not named, no socket diagnostics: {error.strerror}")

    def _remember(self, *, at_once: bool) -> None:
        totals = self._meter.totals
        if at_once or self._remembered is None or self._is_much(self._remembered, totals):
            self._remembered = totals
            self._report.remember(self._meter.encode(self._host.clock.now()))

    def _is_much(self, before: Mapping[str, int], now: Mapping[str, int]) -> bool:
        """Whether enough was transferred since *before* to be worth anything."""
        least = max(self._check.limit // _STEP, 1)
        return any(total - before.get(name, 0) >= least for name, total in now.items())

    # What is told

    async def _judge(self, bad: Mapping[str, bool], news: list[str], now: float) -> None:
        for name in news:
            if not bad[name]:
                self._report.observe(self._observation(name, OK, self._description(name, now)))
        level = self._check.settings.default_alert_level
        found = [
            # What was told already is not told again.
            self._observation(name, level, self._description(name, now) if name in news else "")
            for name, is_bad in bad.items()
            if is_bad
        ]
        await self._findings.look(found, "The interface is not watched any more")

    def _observation(self, name: str, level: str, description: str) -> Observation:
        shown = printable(name)
        return Observation(
            level=level,
            name=f"High data transfer on {shown}",
            subject=Subject(shown, "traffic", "high" if level != OK else "normal"),
            details=Details(description),
            key=name,
            cleared_status="normal",
        )

    def _description(self, name: str, now: float) -> str:
        check, one = self._check, self._meter.interfaces[name]
        total, rate = one.window.sum(now), one.window.rate(now, check.interval)
        lines = [headline(printable(name), total, check.direction, check.window, check.limit)]
        lines += describe(total, rate, check.window, check.direction, one.shares.top(now, check.direction))
        return "\n".join(lines)

    def _tell_notes(self, sums: Mapping[str, int], missing: list[str]) -> None:
        check = self._check
        busiest = max(sums, key=lambda name: sums[name], default=None)
        # In steps: the status need not be written at each look.
        tenths = min(sums[busiest] * 10 // check.limit, 10) if busiest is not None else 0
        some = f"{printable(busiest or '')}: {tenths * 10} % of {amount(check.limit)} in {span(check.window)}"
        self._report.note("window", some if tenths else "")
        several = len(missing) < len(check.interfaces)
        self._report.note("missing", ", ".join(missing) if several else "")
        left_out = f"more than {MAX_INTERFACES} interfaces; further ones are not counted"
        self._report.note("interfaces", left_out if self._meter.left_out else "")
        if self._connections is not None:
            self._report.note("attribution", "; ".join(self._connections.limits()))


CHECK = TrafficCheck
