"""
What goes over network interfaces, by the kernel's counters: who is counted, resets, restarts, reboots.

Pure: readings and clocks in, windows out. A counter that went back begins anew at 0 and adds what it shows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from math import floor, isfinite
from typing import Any, NamedTuple

from mender_monitor_py.model import Stamp
from mender_monitor_py.records import age
from mender_monitor_py.trafficshares import Shares, Who
from mender_monitor_py.trafficwindow import Bucket, Bytes, Window

DEFAULT = "default"
MAX_INTERFACES = 64
_MAX_MEMORY = 65_536
_SHARES_KEPT = 5


class Reading(NamedTuple):
    """The counters of an interface, with the name that it has at that moment."""

    name: str
    counters: Bytes


class Link(NamedTuple):
    """An interface of the machine."""

    name: str
    loopback: bool


@dataclass(frozen=True, slots=True)
class Interface:
    """What went over the interface of one name, and whose it was."""

    window: Window
    shares: Shares


def choose(
    words: Sequence[str], links: Mapping[int, Link], defaults: Collection[int]
) -> dict[str, list[int]]:
    """
    The interfaces that each of *words* means: ``default``, a name, or a glob, which never means loopback.

    *links* is by index, *defaults* those of the default routes.
    """

    def means(word: str, index: int, link: Link) -> bool:
        if word == DEFAULT:
            return index in defaults
        return link.name == word or (not link.loopback and fnmatchcase(link.name, word))

    return {word: [index for index, link in links.items() if means(word, index, link)] for word in words}


def may_mean(words: Sequence[str], name: str) -> bool:
    """Whether one of *words* can mean an interface that is called *name*."""
    return any(word in (DEFAULT, name) or fnmatchcase(name, word) for word in words)


def exceeds(amount: int, limit: int, *, bad: bool) -> bool:
    """Whether *amount* bytes are too many. What is *bad* stays so until it falls below 90 % of *limit*."""
    return amount > limit or (bad and amount * 10 >= limit * 9)


class Meter:
    """
    Counts the chosen interfaces of one check.

    *seconds* is the length of the windows, *interval* the time from look to look. *memory* is what an earlier
    run has kept; what cannot be read is given up, as are interfaces that none of *words* can mean. An
    interface is its index and its boot: it may be renamed, and takes its window along. One that was made
    anew has another index.
    """

    def __init__(
        self, words: Sequence[str], seconds: float, interval: float, now: Stamp, memory: str = ""
    ) -> None:
        self._words = words
        self._seconds = seconds
        self._finest = 2 * interval
        self.interfaces: dict[str, Interface] = {}
        self.left_out = 0
        self._last: dict[int, Reading] = {}
        self._seen: frozenset[int] = frozenset()
        self._chosen: set[int] = set()
        self._at: float | None = None
        # Names whose interface may have another index than before, since nobody looked.
        self._names: frozenset[str] | None = frozenset()
        self._saved: Stamp | None = None
        self._shift = 0.0
        if memory:
            self._restore(memory, now)

    @property
    def names(self) -> dict[int, str]:
        """What the interfaces that count are called, by index."""
        return {index: self._last[index].name for index in self._chosen if index in self._last}

    def sums(self, now: float) -> dict[str, Bytes]:
        """What each window that ends at *now* holds."""
        return {name: one.window.sum(now) for name, one in self.interfaces.items()}

    @property
    def totals(self) -> dict[str, int]:
        """All that was counted in this run, in both directions."""
        return {name: one.window.total for name, one in self.interfaces.items()}

    def look(self, now: Stamp, readings: Mapping[int, Reading], chosen: Collection[int]) -> None:
        """
        All interfaces show *readings*; those in *chosen* count.

        One that was chosen at the last look counts until now. One that was there without being chosen counts
        from now on.
        """
        self._settle(now)
        self._forget()
        self._rename(readings, chosen)
        since = now.boottime if self._at is None else self._at
        for index, reading in readings.items():
            if index in self._chosen or (index in chosen and index not in self._seen):
                before = self._last.get(index)
                name = reading.name if before is None or index in chosen else before.name
                self._count(name, since, now.boottime, self._step(index, reading))
        self._last = dict(readings)
        self._seen = frozenset(readings)
        self._chosen = {index for index in chosen if index in readings}
        self._at = now.boottime
        self._names = None
        for name in self.names.values():
            self._of(name)  # it is remembered with its counters from now on

    def appeared(self, index: int, reading: Reading) -> None:
        """An interface was made, or came from another network namespace: what it shows is not ours yet."""
        self._last.setdefault(index, reading)

    def vanished(self, index: int, reading: Reading, now: float) -> None:
        """An interface has gone; *reading* is the last of it."""
        if index in self._chosen and self._at is not None:
            self._count(self._last[index].name, self._at, now, self._step(index, reading))
        self._chosen.discard(index)
        self._seen -= {index}
        self._last.pop(index, None)

    def encode(self, now: Stamp) -> str:
        """What another run needs to go on from here."""
        # Those that are there without being chosen, too: what they show later is not all new.
        indexes = {reading.name: index for index, reading in self._last.items()}
        rows = [self._row(name, one, indexes.get(name), now) for name, one in self.interfaces.items()]
        text = _json({"at": asdict(now), "interfaces": rows})
        if len(text) > _MAX_MEMORY:
            text = _json({"at": asdict(now), "interfaces": [{**row, "shares": []} for row in rows]})
        return text

    def _row(self, name: str, one: Interface, index: int | None, now: Stamp) -> dict[str, Any]:
        shares = one.shares.top(now.boottime, "both")[:_SHARES_KEPT]
        return {
            "name": name,
            "index": index,
            "chosen": index in self._chosen,
            "counters": None if index is None else self._last[index].counters,
            "window": _rounded(one.window.content),
            "shares": [
                {"who": asdict(share.who), "window": _rounded(share.window.content)} for share in shares
            ],
        }

    def _restore(self, memory: str, now: Stamp) -> None:
        try:
            fields = json.loads(memory)
            saved = Stamp(**fields["at"])
            rows = [_Row.read(row) for row in fields["interfaces"] if may_mean(self._words, row["name"])]
        except (AttributeError, KeyError, TypeError, ValueError):
            return
        self._saved = saved
        self._shift = _shift(saved, now)
        same = saved.boot_id == now.boot_id
        # After a reboot all that the counters show has gone by since the boot.
        self._at = saved.boottime if same else max(saved.boottime + self._shift, 0.0)
        self._names = frozenset(row.name for row in rows) if same else None
        for row in rows[:MAX_INTERFACES]:
            one = self.interfaces[row.name] = self._interface()
            one.window.take(bucket.moved(self._shift) for bucket in row.window)
            for who, buckets in row.shares:
                one.shares.restore(who, [bucket.moved(self._shift) for bucket in buckets])
            if same and row.index is not None:
                self._last[row.index] = Reading(row.name, row.counters)
                if row.chosen:
                    self._chosen.add(row.index)
                else:
                    self._seen |= {row.index}

    def _settle(self, now: Stamp) -> None:
        """
        How long the machine was off shows when the wall clock is set, which may be long after the boot.

        It can have been off for longer than was thought, not for less.
        """
        if self._saved is None or self._saved.boot_id == now.boot_id:
            return
        shift = _shift(self._saved, now)
        older = self._shift - shift
        if older > 0:
            self._shift = shift
            for one in self.interfaces.values():
                one.window.age(older)
                one.shares.age(older)

    def _forget(self) -> None:
        """An interface that is away is forgotten when :meth:`sums` has said that its window is empty."""
        counted = self.names.values()
        for name in [name for name, one in self.interfaces.items() if not one.window]:
            if name not in counted:
                del self.interfaces[name]

    def _rename(self, readings: Mapping[int, Reading], chosen: Collection[int]) -> None:
        moved: list[tuple[str, Interface]] = []
        for index in self._chosen:
            before, reading = self._last.get(index), readings.get(index)
            if before and reading and before.name != reading.name and index in chosen:
                one = self.interfaces.pop(before.name, None)
                if one is not None:
                    moved.append((reading.name, one))
        for name, one in moved:
            other = self.interfaces.setdefault(name, one)
            if other is not one:
                other.window.take(one.window.content)

    def _step(self, index: int, reading: Reading) -> Bytes:
        before = self._last.get(index)
        if before is not None:
            return Bytes(
                *(
                    new - old if new >= old else new
                    for new, old in zip(reading.counters, before.counters, strict=True)
                )
            )
        # All were seen at the last look: this one is new. At the first look that is known by its name alone.
        return reading.counters if self._names is None or reading.name in self._names else Bytes()

    def _count(self, name: str, since: float, until: float, amount: Bytes) -> None:
        one = self._of(name)
        if one is not None:
            one.window.add(since, until, amount)

    def _of(self, name: str) -> Interface | None:
        """What is kept of the interface *name*; None: there are too many."""
        if name not in self.interfaces:
            if len(self.interfaces) >= MAX_INTERFACES:
                self.left_out += 1
                return None
            self.interfaces[name] = self._interface()
        return self.interfaces[name]

    def _interface(self) -> Interface:
        window = Window(self._seconds, finest=self._finest)
        return Interface(window, Shares(self._seconds, self._finest))


@dataclass(frozen=True, slots=True)
class _Row:
    """An interface, as it was kept."""

    name: str
    index: int | None
    chosen: bool
    counters: Bytes
    window: list[Bucket]
    shares: list[tuple[Who, list[Bucket]]]

    @classmethod
    def read(cls, row: dict[str, Any]) -> _Row:
        """Raises KeyError, TypeError or ValueError when *row* is none."""
        shares = [(_who(**share["who"]), _buckets(share["window"])) for share in row["shares"]]
        index = None if row["index"] is None else int(row["index"])
        counters = Bytes() if index is None else _bytes(*row["counters"])
        return cls(str(row["name"]), index, bool(row["chosen"]), counters, _buckets(row["window"]), shares)


def _shift(saved: Stamp, now: Stamp) -> float:
    """What to add to a time of *saved*'s boot to have it on the clock of *now*."""
    return now.boottime - max(age(saved, now), 0.0) - saved.boottime


def _who(key: Iterable[str], label: str, lines: Iterable[str], own: bool) -> Who:
    return Who(tuple(map(str, key)), str(label), tuple(map(str, lines)), bool(own))


def _bytes(received: Any, sent: Any) -> Bytes:
    return Bytes(max(int(received), 0), max(int(sent), 0))


def _buckets(rows: Iterable[Sequence[Any]]) -> list[Bucket]:
    found = [Bucket(float(since), float(until), _bytes(*amount)) for since, until, *amount in rows]
    if not all(isfinite(bucket.since) and isfinite(bucket.until) for bucket in found):
        raise ValueError("a time that is none")
    return found


def _rounded(buckets: Iterable[Bucket]) -> list[tuple[float, float, int, int]]:
    # Down: what was before a boot must not seem to be after it.
    return [(floor(since * 10) / 10, floor(until * 10) / 10, *amount) for since, until, amount in buckets]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
