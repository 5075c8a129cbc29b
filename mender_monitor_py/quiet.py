"""
Of which checks nothing is told for now: silences that a person asked for, and the hold of a deployment.

Pure. Moments are seconds on CLOCK_BOOTTIME.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mender_monitor_py.model import CheckId

NEVER_HELD = frozenset({"deployment"})
"""Subsystems that speak while a deployment runs: what they tell is about the deployment itself."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """
    *checks* are silent until a moment each, and *everything* is until one; *held*: a deployment runs.
    """

    checks: Mapping[CheckId, float] = field(default_factory=dict)
    everything: float = 0.0
    held: bool = False

    def holds(self, check: CheckId) -> bool:
        """Whether what is new of *check* is held back for a deployment."""
        return self.held and check.subsystem not in NEVER_HELD

    def silences(self, check: CheckId, now: float) -> bool:
        """Whether nothing is told of *check*, for whatever reason."""
        return self.holds(check) or max(self.checks.get(check, 0.0), self.everything) > now

    def next_end(self, now: float) -> float | None:
        """When the next silence ends by itself. None: there is none."""
        return min((end for end in (*self.checks.values(), self.everything) if end > now), default=None)
