"""
Bytes within a sliding window, in a bounded number of buckets.

Pure: times are seconds since the boot, below 0 for what was before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class Bytes(NamedTuple):
    """What went over an interface, or a connection."""

    received: int = 0
    sent: int = 0

    def plus(self, other: Bytes) -> Bytes:
        return Bytes(self.received + other.received, self.sent + other.sent)

    def of(self, direction: str) -> int:
        """Those of *direction*: ``tx``, ``rx``, or ``both`` together."""
        if direction == "both":
            return self.received + self.sent
        return self.sent if direction == "tx" else self.received


class Bucket(NamedTuple):
    """What went by after *since*, until *until*."""

    since: float
    until: float
    amount: Bytes

    def moved(self, by: float) -> Bucket:
        """The same, *by* seconds later."""
        return Bucket(self.since + by, self.until + by, self.amount)


class Window:
    """
    The bytes of the last *seconds*.

    A bucket is at most *width* seconds long: a *buckets*-th of the window, but at least *finest*. One that
    reaches out of the window counts whole, so that the sum is never less than what the window holds, nor
    more than what a window longer by *width* does.
    """

    def __init__(self, seconds: float, *, buckets: int = 60, finest: float = 0.0) -> None:
        self.seconds = seconds
        self.width = max(seconds / buckets, finest)
        self.total = 0  # all that was added, both directions
        self._buckets: deque[Bucket] = deque()

    def __bool__(self) -> bool:
        return bool(self._buckets)

    @property
    def content(self) -> tuple[Bucket, ...]:
        """The buckets, oldest first."""
        return tuple(self._buckets)

    def add(self, since: float, until: float, amount: Bytes) -> None:
        """
        *amount* went by after *since*, until *until*, which is no earlier than with the last call.

        What took longer than a bucket is spread evenly.
        """
        if any(amount):
            self.total += sum(amount)
            self._spread(since, until, amount)

    def sum(self, now: float) -> Bytes:
        """The bytes of the window that ends at *now*."""
        self._forget(now)
        return Bytes(sum(b.amount.received for b in self._buckets), sum(b.amount.sent for b in self._buckets))

    def rate(self, now: float, seconds: float) -> Bytes:
        """Bytes a second in the last *seconds*, or a little more than these."""
        recent = [bucket for bucket in self._buckets if bucket.until > now - seconds]
        if not recent:
            return Bytes()
        span = max(now - recent[0].since, seconds)
        return Bytes(*(round(sum(parts) / span) for parts in zip(*(b.amount for b in recent), strict=True)))

    def take(self, buckets: Iterable[Bucket]) -> None:
        """Take over the *buckets* of another window."""
        merged = sorted((*self._buckets, *buckets), key=lambda bucket: bucket.until)
        self._buckets.clear()
        for bucket in merged:
            self._spread(*bucket)

    def age(self, by: float) -> None:
        """What was before the boot turns out to be *by* seconds older."""
        self._buckets = deque(bucket.moved(-by) if bucket.until <= 0 else bucket for bucket in self._buckets)

    def _spread(self, since: float, until: float, amount: Bytes) -> None:
        pieces = max(math.ceil((until - since) / self.width - 1e-9), 1)
        # What is older than the window need not be spread: a gap may be of years.
        for number in range(max(pieces - math.ceil(self.seconds / self.width) - 1, 0), pieces):
            piece = Bytes(*(part * (number + 1) // pieces - part * number // pieces for part in amount))
            start, end = (since + (until - since) * at / pieces for at in (number, number + 1))
            if any(piece):
                self._append(Bucket(start, end, piece))

    def _append(self, bucket: Bucket) -> None:
        last = self._buckets[-1] if self._buckets else None
        across_boot = last is not None and last.until <= 0 < bucket.until
        if last is not None and bucket.until - last.since <= self.width and not across_boot:
            self._buckets[-1] = Bucket(
                last.since, max(last.until, bucket.until), last.amount.plus(bucket.amount)
            )
        else:
            self._buckets.append(bucket)
        self._forget(bucket.until)

    def _forget(self, now: float) -> None:
        while self._buckets and self._buckets[0].until <= now - self.seconds:
            self._buckets.popleft()
