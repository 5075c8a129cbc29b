"""
When a scan is due: from a schedule, a share of its splay that is this device's own, and what happened so far.

Pure. Moments are :class:`~mender_monitor_py.model.Stamp` values; a scan that is due is due on CLOCK_BOOTTIME.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass

from mender_monitor_py.calendarspec import Calendar
from mender_monitor_py.duration import seconds
from mender_monitor_py.model import Stamp
from mender_monitor_py.records import age, happened

LEAST_INTERVAL_S = 60
# A device that was off at its time, or was told something new, scans within this time, and not all of a
# fleet at once.
CATCH_UP_S = 600.0
_RETRIES_S = (600.0, 3600.0, 7200.0, 14_400.0, 21_600.0)

Schedule = Calendar | int


def parse(text: str) -> Schedule:
    """A calendar expression of systemd.time(7), or an interval in seconds. Raises ValueError."""
    if not (text[:-1] or text).isdigit():
        return Calendar.parse(text)
    found = seconds(text)
    if found < LEAST_INTERVAL_S:
        raise ValueError(f"{text!r} is less than a minute; a day is 1d or daily")
    return found


def fraction(seed: str) -> float:
    """A number from 0 to 1 that is the same each time, and another for each *seed*."""
    mixed = zlib.crc32(seed.encode(errors="surrogateescape"))
    # The CRCs of seeds that are much alike lie close together: the finalizer of MurmurHash3 spreads them.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ mixed >> shift) * factor & 0xFFFFFFFF
    return (mixed ^ mixed >> 16) / 2**32


@dataclass(frozen=True, slots=True)
class Past:
    """
    What happened so far: when the check was *first* started ever, and when this time, in this boot; the
    *last* scan, and how many of them have *failed* in a row.
    """

    first: Stamp
    started: Stamp
    last: Stamp | None = None
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule with its *splay* in seconds, and this device's *share* of it, from 0 to 1."""

    schedule: Schedule
    splay: float
    share: float

    def wait(self, past: Past, now: Stamp, passing: Collection[float] = ()) -> float | None:
        """
        Seconds from *now* to the next scan, 0 or less: it is due. None: the clock has to be set first.

        *passing* are further moments, seconds since the epoch, after which one is due.
        """
        scheduled = self._scheduled(past, now)
        waits = self._after(passing, past, now) + ([] if scheduled is None else [scheduled])
        if past.failed and past.last is not None:
            retry = _RETRIES_S[min(past.failed, len(_RETRIES_S)) - 1]
            waits.append(retry - age(past.last, now))
        return min(waits, default=None)

    def soon(self, asked: Stamp, now: Stamp) -> float:
        """Seconds from *now* to a scan that something new asked for at *asked*, of the same boot."""
        return min(self.splay, CATCH_UP_S) * self.share - (now.boottime - asked.boottime)

    def _scheduled(self, past: Past, now: Stamp) -> float | None:
        if past.last is None:
            return self._offset - age(past.first, now)
        wait = self._due(past.last, now)
        if wait is None or wait > 0:
            return wait
        missed = self._due(past.last, past.started)
        return max(wait, self.soon(past.started, now)) if missed is None or missed < 0 else wait

    def _due(self, last: Stamp, now: Stamp) -> float | None:
        if isinstance(self.schedule, int):
            return self.schedule - max(age(last, now), 0.0)
        if not now.known:
            return None
        # A clock that went back must not make it wait for what it once showed.
        following = self.schedule.next(min(happened(last, now), now.wall))
        return None if following is None else following + self._offset - now.wall

    def _after(self, passing: Collection[float], past: Past, now: Stamp) -> list[float]:
        if not now.known or past.last is None:
            return []
        last = happened(past.last, now)
        return [moment + self._offset - now.wall for moment in passing if moment > last]

    @property
    def _offset(self) -> float:
        return self.splay * self.share
