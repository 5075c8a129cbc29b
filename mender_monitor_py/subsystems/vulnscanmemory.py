"""What a check of a vulnerability scanner keeps from scan to scan, and over restarts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mender_monitor_py.model import Stamp


@dataclass
class Memory:
    """
    What is kept over restarts: when the check was *first* started and when the *last* scan was; how many
    *failed* in a row; the *versions* that were found, by the keys of the findings, which of them are *summed*
    up; what the check file *told* then, which *artifact* was installed, and the *seed* of a device without an
    identity.
    """

    first: Stamp
    last: Stamp | None = None
    failed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    summed: list[str] = field(default_factory=list)
    told: str = ""
    artifact: str = ""
    seed: str = ""

    @classmethod
    def read(cls, text: str, now: Stamp) -> Self:
        """What :meth:`text` wrote; that of a new check if it is something else."""
        try:
            fields: dict[str, Any] = json.loads(text)
            first, last = fields.pop("first"), fields.pop("last")
            return cls(Stamp(**first), Stamp(**last) if last else None, **fields)
        except (AttributeError, KeyError, TypeError, ValueError):
            return cls(now)

    def text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))
