"""How many alerts to post at once, and which one the server will never take."""

from __future__ import annotations


class Batches:
    """
    The size of the next batch.

    A refused batch is halved until the bad record stands alone. When all of a refused batch is taken in
    smaller ones, the server takes no more at once, and batches stay that small.
    """

    def __init__(self, largest: int) -> None:
        self._largest = max(largest, 1)
        self._refused = 0  # the size of the batch that was refused first
        self._suspects = 0  # how many records from the head on hold a bad one

    @property
    def size(self) -> int:
        """How many records to post next, from the head on."""
        return max(self._suspects // 2, 1) if self._suspects else self._largest

    def accepted(self, count: int) -> None:
        """The server took *count* records."""
        if not self._suspects:
            return
        self._suspects = max(self._suspects - count, 0)
        if not self._suspects:
            self._largest = max(self._refused // 2, 1)

    def refused(self, count: int) -> bool:
        """The server refused *count* records for good. True: it was one alone, the bad one."""
        if count == 1:
            self._suspects = 0
            return True
        if not self._suspects:
            self._refused = count
        self._suspects = count
        return False

    def interrupted(self) -> None:
        """What is at the head may have changed: forget what was suspected."""
        self._suspects = 0
