"""systemd's units: their names, whether they run, and why not, in words."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mender_monitor_py.signalname import signal_name

UNIT_PATH = "/org/freedesktop/systemd1/unit/"

# systemd.unit(5): the suffixes of unit names
_SUFFIXES = (
    "service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope",
)  # fmt: skip
_PLAIN = string.ascii_letters + string.digits + ":_."
_ALLOWED = _PLAIN + "-\\@"
_LONGEST = 255

# What `systemctl is-active` calls active. "refreshing" is new in systemd 257.
_RUNNING = ("active", "reloading", "refreshing")

# CLD_EXITED, CLD_KILLED, CLD_DUMPED: sigaction(2), si_code
_EXITED, _KILLED, _DUMPED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Unit:
    """
    What systemd says of a unit: its LoadState, ActiveState and SubState, and its object *path*.

    *job* is the number of the job that waits or works on it; 0: none. *problem* is systemd's word on a name
    that cannot be a unit's.
    """

    name: str
    load: str
    active: str
    sub: str
    path: str = ""
    job: int = 0
    problem: str = ""

    @property
    def running(self) -> bool:
        """As ``systemctl is-active`` judges."""
        return self.active in _RUNNING


def unit_name(text: str) -> str:
    """
    The unit that ``systemctl`` takes *text* for: ``.service`` is added, paths and odd characters are escaped.

    Raises ValueError when there can be no such unit.
    """
    if text.startswith("/") and not _is_unit_name(text):
        device = text.startswith(("/dev/", "/sys/"))
        name = _path_name(text) + (".device" if device else ".mount")
    else:
        name = "".join(_mangled(byte) for byte in text.encode(errors="surrogateescape"))
        if not name.endswith(tuple(f".{suffix}" for suffix in _SUFFIXES)):
            name += ".service"
    if not _is_unit_name(name):
        raise ValueError(f"{text[:60]!r} cannot be the name of a unit")
    if re.search(r"@\.[a-z]+$", name):
        raise ValueError(
            f"{name} is a template: name one of its instances, such as {name.replace('@', '@1')}"
        )
    return name


def object_path(name: str) -> str:
    """The D-Bus object of the unit *name*, if that is not an alias."""
    return UNIT_PATH + "".join(
        chr(byte) if chr(byte).isalnum() and (index or not chr(byte).isdigit()) else f"_{byte:02x}"
        for index, byte in enumerate(name.encode())
    )


def interface(name: str) -> str:
    """The D-Bus interface of the unit's own kind; empty for kinds that have no result."""
    kind = name.rpartition(".")[2]
    return "" if kind in ("target", "device", "slice") else f"org.freedesktop.systemd1.{kind.capitalize()}"


def properties(name: str) -> tuple[str, ...]:
    """The properties of :func:`interface` that :func:`why` can use."""
    if name.endswith(".service"):
        return (
            "Result",
            "ExecMainCode",
            "ExecMainStatus",
            "ExecMainStartTimestampMonotonic",
            "ExecMainExitTimestampMonotonic",
            "NRestarts",
        )
    return ("Result",) if interface(name) else ()


def why(unit: Unit, facts: Mapping[str, Any]) -> str:
    """Why *unit* does not run; *facts* are its :func:`properties`, as far as they are known."""
    if unit.problem:
        return f"systemd cannot load {unit.name}: {unit.problem}"
    if unit.load == "not-found":
        return f"There is no unit {unit.name} on this device"
    if unit.load not in ("loaded", "masked"):
        return f"systemd cannot load the unit {unit.name} ({unit.load})"
    state = f"{unit.name} is {unit.active} ({unit.sub})"
    if unit.load == "masked":
        state += " and masked"
    causes = [_RESULTS.get(str(facts.get("Result", "success")), ""), _main_process(facts)]
    restarts = facts.get("NRestarts", 0)
    if restarts:
        causes.append(f"systemd has restarted it {restarts} time{'s' if restarts > 1 else ''}")
    told = "; ".join(cause for cause in causes if cause)
    return f"{state}: {told}" if told else state


# systemd.exec(5), $SERVICE_RESULT, and the results of the other kinds of units
_RESULTS = {
    "timeout": "it took too long to start or to stop",
    "watchdog": "it did not answer its watchdog",
    "start-limit-hit": "it was started too often",
    "resources": "a resource that it needs is missing",
    "protocol": "it did not start as its unit file says",
    "oom-kill": "the memory ran out and it was killed",
    "exec-condition": "its condition to start does not hold",
    "service-start-limit-hit": "its service was started too often",
    "trigger-limit-hit": "it was triggered too often",
    "unit-start-limit-hit": "its unit was started too often",
    "mount-start-limit-hit": "it was mounted too often",
}


def _main_process(facts: Mapping[str, Any]) -> str:
    code, status = facts.get("ExecMainCode", 0), facts.get("ExecMainStatus", 0)
    if code == _EXITED:
        end = f"exited with status {status}"
    elif code in (_KILLED, _DUMPED):
        end = f"was ended by {signal_name(status)}" + (" and dumped core" if code == _DUMPED else "")
    else:
        return ""
    began = facts.get("ExecMainStartTimestampMonotonic", 0)
    ended = facts.get("ExecMainExitTimestampMonotonic", 0)
    lasted = f" after {span((ended - began) / 1e6)}" if 0 < began <= ended else ""
    return f"its main process {end}{lasted}"


def span(seconds: float) -> str:
    """A duration in two units at most: ``3 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if hours < 1:
        return f"{minutes} min {seconds % 60:.0f} s"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def _is_unit_name(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return (
        0 < len(name) <= _LONGEST
        and suffix in _SUFFIXES
        and bool(stem)
        and not stem.startswith("@")
        and all(character in _ALLOWED for character in name)
    )


def _mangled(byte: int) -> str:
    character = chr(byte)
    if character == "/":
        return "-"
    return character if character in _ALLOWED else f"\\x{byte:02x}"


def _path_name(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{path[:60]!r} is not a plain path")
    escaped = "-".join(
        "".join(chr(byte) if chr(byte) in _PLAIN else f"\\x{byte:02x}" for byte in part.encode())
        for part in parts
    )
    return "\\x2e" + escaped[1:] if escaped.startswith(".") else escaped or "-"
