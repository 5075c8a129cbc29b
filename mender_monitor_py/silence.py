"""Checks that are silent for a while: they go on watching, and what is new is told when the time is over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from mender_monitor_py.model import CheckId, Stamp
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.records import age

_PREFIX = "silence/"
_EVERYTHING = "*"  # in the place of a file's name: no check can be called so


@dataclass(frozen=True, slots=True)
class Silence:
    """It lasts *left* seconds from now, for the *reason* that a person gave."""

    left: float
    reason: str


@dataclass(frozen=True, slots=True)
class Silences:
    """Of single checks, and of *everything*: that of checks which are made meanwhile, too."""

    checks: Mapping[CheckId, Silence] = field(default_factory=dict)
    everything: Silence | None = None

    def of(self, check: CheckId) -> Silence | None:
        """The one that ends last of those that *check* is under."""
        found = [one for one in (self.checks.get(check), self.everything) if one is not None]
        return max(found, key=lambda one: one.left, default=None)


def begin(outbox: Outbox, check: CheckId | None, seconds: float, reason: str, now: Stamp) -> None:
    """Silence *check*, or everything (None), for *seconds*. Raises OutboxError."""
    outbox.set_meta(_key(check), _text(seconds, reason, now))


def end(outbox: Outbox, check: CheckId) -> None:
    """Let *check* speak again. Raises OutboxError."""
    outbox.set_meta(_key(check), "")


def end_all(outbox: Outbox) -> None:
    """Let everything speak again. Raises OutboxError."""
    for key in outbox.metas(_PREFIX):
        outbox.set_meta(key, "")


def active(outbox: Outbox, now: Stamp) -> Silences:
    """What is silent *now*. Raises OutboxError."""
    checks, everything = {}, None
    for name, silence, _ in _stored(outbox, now):
        check = CheckId.from_file_name(name)
        if silence.left <= 0:
            continue
        if name == _EVERYTHING:
            everything = silence
        elif check is not None:
            checks[check] = silence
    return Silences(checks, everything)


def settle(outbox: Outbox, now: Stamp) -> None:
    """
    Write down what is left of silences whose beginning will not be known after a reboot, and forget the rest.

    Without it a device whose clock is never set would begin them anew with each boot. Raises OutboxError.
    """
    for name, silence, at in _stored(outbox, now):
        if silence.left <= 0:
            outbox.set_meta(_PREFIX + name, "")
        elif not at.known or at.boot_id != now.boot_id:
            outbox.set_meta(_PREFIX + name, _text(silence.left, silence.reason, now))


def _stored(outbox: Outbox, now: Stamp) -> Iterator[tuple[str, Silence, Stamp]]:
    for key, text in outbox.metas(_PREFIX).items():
        try:
            value = json.loads(text)
            at = Stamp(**value["at"])
            silence = Silence(float(value["seconds"]) - max(age(at, now), 0.0), str(value["reason"]))
        except (KeyError, TypeError, ValueError):
            continue  # written by a later version: a check that speaks is the safe way
        yield key.removeprefix(_PREFIX), silence, at


def _key(check: CheckId | None) -> str:
    return _PREFIX + (check.file_name if check is not None else _EVERYTHING)


def _text(seconds: float, reason: str, now: Stamp) -> str:
    return json.dumps({"at": asdict(now), "seconds": seconds, "reason": reason})
