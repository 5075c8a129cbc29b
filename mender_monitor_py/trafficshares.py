"""
Whose traffic it was: the bytes of programs, and of connections without one, within a sliding window.

Pure. Bounded: where there are too many, the one with the fewest bytes gives way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mender_monitor_py.trafficwindow import Bucket, Bytes, Window

MAX_SHARES = 32
_BUCKETS = 12  # a share needs no more precision


@dataclass(frozen=True, slots=True)
class Who:
    """
    Something that transfers.

    *key* is what is counted together: a program of one user and unit, however often it was started. *lines*
    describe its newest process; *own*: it is a part of this monitor.
    """

    key: tuple[str, ...]
    label: str
    lines: tuple[str, ...] = ()
    own: bool = False


@dataclass(slots=True)
class Share:
    """What one of them has transferred."""

    who: Who
    window: Window
    sum: Bytes = field(default_factory=Bytes)


class Shares:
    """The shares in what went over one interface in the last *seconds*."""

    def __init__(self, seconds: float, finest: float) -> None:
        self._seconds = seconds
        self._finest = finest
        self._shares: dict[tuple[str, ...], Share] = {}

    def __bool__(self) -> bool:
        return bool(self._shares)

    def add(self, who: Who, since: float, until: float, amount: Bytes) -> None:
        """*who* transferred *amount* after *since*, until *until*."""
        if not any(amount):
            return
        share = self._share(who)
        share.who = who
        share.window.add(since, until, amount)
        if len(self._shares) > MAX_SHARES:
            self.look(until)
            # The new one stays: it is the one that transfers.
            least = min((key for key in self._shares if key != who.key), key=self._size)
            del self._shares[least]

    def restore(self, who: Who, buckets: Sequence[Bucket]) -> None:
        """What an earlier run has counted."""
        self._share(who).window.take(buckets)

    def look(self, now: float) -> list[Share]:
        """Those with bytes in the window that ends at *now*."""
        for key, share in list(self._shares.items()):
            share.sum = share.window.sum(now)
            if not share.window:
                del self._shares[key]
        return list(self._shares.values())

    def top(self, now: float, direction: str) -> list[Share]:
        """The same, those with the most bytes in *direction* first."""
        found = [share for share in self.look(now) if share.sum.of(direction)]
        return sorted(found, key=lambda share: share.sum.of(direction), reverse=True)

    def age(self, by: float) -> None:
        """What was before the boot turns out to be *by* seconds older."""
        for share in self._shares.values():
            share.window.age(by)

    def _share(self, who: Who) -> Share:
        if who.key not in self._shares:
            window = Window(self._seconds, buckets=_BUCKETS, finest=self._finest)
            self._shares[who.key] = Share(who, window)
        return self._shares[who.key]

    def _size(self, key: tuple[str, ...]) -> int:
        return sum(self._shares[key].sum)
