"""
What is held back while the update client installs: from when, for which deployment, and how that ended.

Pure. The hold is stored, so that neither a restart of the daemon nor the reboot of an update ends it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from mender_monitor_py.commandline import printable
from mender_monitor_py.model import Stamp
from mender_monitor_py.records import age

MOST_BOOTS = 4
"""An update reboots once, and once more to roll back. A device that boots again and again must be heard."""


@dataclass(frozen=True, slots=True)
class Hold:
    """
    A deployment that installs, or has just ended.

    *id* is empty for one that was started by hand, *artifact* may be; *before* is the artifact that was
    installed when it *began*, *device* the number of the root file system then. *outcome* is how it ended;
    empty: it goes on. *over*: it took too long, nothing is held back any more. *boots* were begun meanwhile,
    the present one is *boot*. The hold had lasted *spent* seconds when it was *counted*.
    """

    id: str
    artifact: str
    before: str
    began: Stamp
    device: str
    payload_types: tuple[str, ...] = ()
    outcome: str = ""
    over: bool = False
    boots: int = 0
    boot: str = ""
    spent: float = 0.0
    counted: Stamp | None = None

    @property
    def label(self) -> str:
        """What people call it, fit to be shown: others have chosen the name."""
        return printable(self.artifact or self.id) or "an artifact"

    def is_of(self, deployment: str, artifact: str) -> bool:
        """Whether this is the hold of that deployment. By hand, the artifact's name may come later."""
        if self.id or deployment:
            return self.id == deployment
        return not (self.artifact and artifact) or self.artifact == artifact

    def left(self, grace: float, now: Stamp) -> float:
        """The seconds for which findings are held back still, of *grace* in all; 0: none."""
        if self.over or self.boots > MOST_BOOTS:
            return 0.0
        return max(grace - self.spent - max(age(self.counted or self.began, now), 0.0), 0.0)

    def resumed(self, now: Stamp) -> Self:
        """The same, for a daemon that starts *now*."""
        if now.boot_id == (self.boot or self.began.boot_id):
            return self
        # From here on the time since boot counts: the clock may have been years ahead, and be right now.
        spent = self.spent + max(age(self.counted or self.began, now), 0.0)
        return replace(self, boots=self.boots + 1, boot=now.boot_id, spent=spent, counted=now)

    def ended_as(self, installed: str, committed: str, failed: str) -> str:
        """
        How it ended while nobody looked: *committed*, if its artifact is *installed* now and was not before.

        Else *failed*: nothing of it counts then.
        """
        return committed if self.artifact and self.artifact == installed != self.before else failed

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """What :meth:`to_text` wrote, or a version that keeps more; None: something else, or nothing."""
        try:
            found = json.loads(text)
            counted = found["counted"]
            hold = cls(
                id=found["id"],
                artifact=found["artifact"],
                before=found["before"],
                began=_stamp(found["began"]),
                device=found["device"],
                payload_types=tuple(map(str, found["payload_types"])),
                outcome=found["outcome"],
                over=bool(found["over"]),
                boots=int(found["boots"]),
                boot=found["boot"],
                spent=float(found["spent"]),
                counted=_stamp(counted) if counted else None,
            )
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            return None
        texts = hold.id, hold.artifact, hold.before, hold.device, hold.outcome, hold.boot
        fits = all(isinstance(one, str) for one in texts) and 0 <= hold.spent < math.inf
        return hold if fits else None


def _stamp(found: dict[str, Any]) -> Stamp:
    boottime, wall = float(found["boottime"]), float(found["wall"])
    if not (math.isfinite(boottime) and math.isfinite(wall)):
        raise ValueError("no moment")
    return Stamp(str(found["boot_id"]), boottime, wall, bool(found["known"]))
