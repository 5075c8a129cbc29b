"""What the outbox drops when it is full, and how that is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mender_monitor_py.model import CRITICAL, OK, Alert, Details, Subject

_NOISIEST = 16  # identities that are counted one by one
_LONGEST = 200  # characters of an identity that are kept


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stored alert, as far as dropping goes. *size* is in bytes."""

    seq: int
    identity: str
    bad: bool
    size: int


def identity(alert: Alert) -> str:
    """By what the server knows an alert: name, subject's name, subject's type."""
    return json.dumps([alert.name, alert.subject.name, alert.subject.type])


def surplus(
    waiting: Sequence[Waiting], *, count: int, size: int, bad_before: Collection[str] = frozenset()
) -> list[Waiting]:
    """
    What to drop so that at most *count* alerts of *size* bytes together stay.

    First the oldest that cancel out, as the server ends with the same states without them; then the
    oldest. *bad_before* are the identities that the server was told to be bad before all this.
    """
    dropped: dict[int, Waiting] = {}
    left, bytes_left = len(waiting), sum(record.size for record in waiting)
    candidates = [*_cancelling(waiting, bad_before), *([record] for record in waiting)]
    for group in candidates:
        if left <= count and bytes_left <= size:
            break
        for record in group:
            if record.seq not in dropped:
                dropped[record.seq] = record
                left -= 1
                bytes_left -= record.size
    return [record for record in waiting if record.seq in dropped]


def _cancelling(waiting: Sequence[Waiting], bad_before: Collection[str]) -> list[list[Waiting]]:
    """
    Bad alerts and the OK that follows them, of one identity, oldest first.

    Only where the server holds it as good before: a WARNING and its OK after a CRITICAL do not cancel out.
    """
    return sorted(_runs(waiting, bad_before), key=lambda run: run[0].seq)


def _runs(waiting: Sequence[Waiting], bad_before: Collection[str]) -> Iterator[list[Waiting]]:
    bad = dict.fromkeys(bad_before, True)
    runs: dict[str, list[Waiting]] = {}
    for record in waiting:
        if not record.bad:
            if run := runs.pop(record.identity, None):
                yield [*run, record]
        elif record.identity in runs:
            runs[record.identity].append(record)
        elif not bad.get(record.identity, False):
            runs[record.identity] = [record]
        bad[record.identity] = record.bad


@dataclass(frozen=True, slots=True)
class Losses:
    """
    What was dropped since the server was last told: *full* for want of room, *old* for age.

    *ever* is the number of all times; *noisiest* the numbers by identity, as far as they are counted.
    """

    full: int = 0
    old: int = 0
    ever: int = 0
    noisiest: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str) -> Losses:
        """What :meth:`to_text` wrote; nothing, when it is something else."""
        try:
            fields: dict[str, Any] = json.loads(text)
            return cls(**fields)
        except (ValueError, TypeError):
            return cls()

    def to_text(self) -> str:
        return json.dumps(
            {"full": self.full, "old": self.old, "ever": self.ever, "noisiest": dict(self.noisiest)}
        )

    def plus(self, identities: Iterable[str], *, old: bool = False) -> Losses:
        """With those dropped too, each named by its identity."""
        counted = Counter({**self.noisiest})
        more = [name[:_LONGEST] for name in identities]
        counted.update(more)
        return Losses(
            self.full + (0 if old else len(more)),
            self.old + (len(more) if old else 0),
            self.ever + len(more),
            dict(counted.most_common(_NOISIEST)),
        )

    def told(self) -> Losses:
        """After the server was told."""
        return Losses(ever=self.ever)

    def alert(self) -> Alert:
        """The one alert that tells it."""
        reasons = [
            f"{number} {reason}"
            for number, reason in (
                (self.full, "because the outbox was full"),
                (self.old, "because they were too old"),
            )
            if number
        ]
        name, number = max(self.noisiest.items(), key=lambda item: item[1], default=("", 0))
        description = (
            f"{self.full + self.old} alerts were dropped before they could be sent: {', '.join(reasons)}. "
            f"Most of them ({number}) were {_readable(name)}."
        )
        return own_alert("Alerts were dropped", "dropped", description)


def own_alert(name: str, status: str, description: str) -> Alert:
    """An alert about the outbox itself; :func:`cleared` ends it once it was sent."""
    return Alert(name, CRITICAL, Subject("outbox", "monitor", status), Details(description))


def cleared(alert: Alert) -> Alert:
    """The OK of an alert about the outbox: what it told happened, and is over."""
    return replace(
        alert,
        level=OK,
        subject=replace(alert.subject, status="ok"),
        details=Details("This was told; the outbox works."),
    )


def _readable(text: str) -> str:
    try:
        name, subject, _ = json.loads(text)
    except (TypeError, ValueError):  # it was cut, or is the name of a record that is no alert
        return text
    return f"'{name}' of '{subject}'"
