"""What the outbox holds: stored alerts, their moments, its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from mender_monitor_py.model import Alert, CheckId, Stamp
from mender_monitor_py.settings import Settings

WAITING, SET_ASIDE, SENT = "waiting", "set aside", "sent"

_AGREEMENT = 2.0  # seconds by which a clock that was set may be off before it is corrected


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The outbox's bounds: *count* alerts wait at most, *age* seconds at most (0: however long).

    Those that were sent stay listed for *history* seconds (0: not at all), *count* of them at most.
    """

    count: int = 1024
    age: float = 604_800
    history: float = 86_400

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            settings.alert_offline_store_max_count,
            settings.alert_store_max_record_age_s,
            settings.alert_log_max_age,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """
    A stored alert.

    *state* is WAITING, SET_ASIDE (for *reason*) or SENT (at *sent*, seconds since the epoch).
    """

    seq: int
    alert: Alert
    at: Stamp
    state: str = WAITING
    sent: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """
    How many alerts wait, are set aside, are listed as sent, and were dropped ever.

    *held* ones wait in memory, as the file cannot be written. *oldest* is that of the first that waits.
    """

    waiting: int
    set_aside: int
    sent: int
    dropped: int
    held: int
    oldest: Stamp | None


@dataclass
class Changes:
    """What one transaction writes; None deletes. States are by check and key of the finding."""

    alerts: list[tuple[Alert, Stamp]] = field(default_factory=list)
    states: dict[tuple[CheckId, str], str | None] = field(default_factory=dict)
    memories: dict[CheckId, str | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.alerts or self.states or self.memories)

    def add(self, later: Changes) -> None:
        """Make *later* part of this."""
        self.alerts += later.alerts
        self.states |= later.states
        self.memories |= later.memories


def happened(at: Stamp, now: Stamp) -> float:
    """
    The wall time of *at*, as well as it can be known *now*; seconds since the epoch.

    Within one boot the clock of *now* is the better one, once it was set. An alert of an earlier boot
    whose clock was not set has at least happened before this boot.
    """
    if at.boot_id == now.boot_id:
        if not now.known:
            return at.wall
        derived = now.wall - (now.boottime - at.boottime)
        return at.wall if at.known and abs(at.wall - derived) <= _AGREEMENT else derived
    if at.known or not now.known:
        return at.wall
    return now.wall - now.boottime


def age(at: Stamp, now: Stamp) -> float:
    """The seconds that have passed for certain since *at*."""
    if at.boot_id == now.boot_id:
        return now.boottime - at.boottime
    return now.wall - at.wall if at.known and now.known else now.boottime
