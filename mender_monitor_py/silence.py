"""Checks that are silent for a while: they go on watching, and what is new is told when the time is over."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from mender_monitor_py.model import CheckId, Stamp
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.records import age

_PREFIX = "silence/"


@dataclass(frozen=True, slots=True)
class Silence:
    """A check is silent for *left* seconds from now, for the *reason* that a person gave."""

    check: CheckId
    left: float
    reason: str


def begin(outbox: Outbox, check: CheckId, seconds: float, reason: str, now: Stamp) -> None:
    """Silence *check* for *seconds*. Raises OutboxError."""
    value = {"at": asdict(now), "seconds": seconds, "reason": reason}
    outbox.set_meta(_PREFIX + check.file_name, json.dumps(value))


def end(outbox: Outbox, check: CheckId) -> None:
    """Let *check* speak again. Raises OutboxError."""
    outbox.set_meta(_PREFIX + check.file_name, "")


def active(outbox: Outbox, now: Stamp) -> dict[CheckId, Silence]:
    """The checks that are silent *now*. Raises OutboxError."""
    found = {}
    for key, text in outbox.metas(_PREFIX).items():
        check = CheckId.from_file_name(key.removeprefix(_PREFIX))
        try:
            value = json.loads(text)
            left = float(value["seconds"]) - age(Stamp(**value["at"]), now)
            reason = str(value["reason"])
        except (KeyError, TypeError, ValueError):
            continue  # written by a later version: a check that speaks is the safe way
        if check is not None and left > 0:
            found[check] = Silence(check, left, reason)
    return found
