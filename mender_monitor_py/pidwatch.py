"""
Whether a process is still the one that it was, and how to tell it.

Pure. Times are seconds on CLOCK_BOOTTIME. The identity of a process is its number with its start time, so
that a number that is used again does not hide a restart.
"""

from __future__ import annotations

import json
import signal
from typing import NamedTuple, Self

from mender_monitor_py.signalname import signal_name

# A daemon that puts itself into the background is another process after this long at most.
DAEMONIZES_S = 10.0
_TICKS_S = 0.03  # a start time is rounded to a clock tick


class Main(NamedTuple):
    """The process that is watched: its boot, its number, its start in clock ticks and in seconds."""

    boot_id: str
    pid: int
    start: int
    started: float

    def same(self, other: Main) -> bool:
        return (self.boot_id, self.pid, self.start) == (other.boot_id, other.pid, other.start)

    def to_text(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """What :meth:`to_text` wrote; None: something else."""
        try:
            found = json.loads(text)
            return cls(str(found["boot_id"]), int(found["pid"]), int(found["start"]), float(found["started"]))
        except (KeyError, TypeError, ValueError):
            return None


def restarted(old: Main | None, new: Main, ended: float | None, descends: bool | None = None) -> bool:
    """
    Whether *new* in place of *old* is a restart; *ended* is when the old one was seen to end.

    Not after a reboot. And not when a young daemon goes into the background: the one that stays was
    started by the first one, before that ended. *descends* is the kernel's word on that; None: only the times
    tell.
    """
    if old is None or old.same(new) or old.boot_id != new.boot_id:
        return False
    if ended is None or ended - old.started > DAEMONIZES_S:
        return True
    return not (new.started < ended - _TICKS_S if descends is None else descends)


def ended_in_order(status: int | None) -> bool:
    """
    Whether it was told to end, and did, rather than crashed; from an exit status as wait(2) has it.

    A service manager says SIGTERM first; many daemons catch it and end with a status of their own. None:
    nobody saw it.
    """
    if status is None:
        return True
    number, code = status & 0x7F, status >> 8
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return number in asked if number else code == 0 or code - 128 in asked


def how_it_ended(status: int | None) -> str:
    """In words, from an exit status as wait(2) has it. None: it is not known."""
    if status is None:
        return "how it ended is not known"
    number = status & 0x7F
    if number:
        return f"it was ended by {signal_name(number)}" + (", with a core dump" if status & 0x80 else "")
    return f"it ended by itself with status {status >> 8}"


def lifetime(seconds: float) -> str:
    """A duration as people say it."""
    days, rest = divmod(int(max(seconds, 0.0)), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"


def pid_in_file(text: str) -> int | None:
    """The number that a pid file holds, as daemons write it: the first line. None: there is none."""
    first = text.strip().split("\n", 1)[0].strip()
    return int(first) if first.isascii() and first.isdigit() and 0 < len(first) < 11 and int(first) else None
