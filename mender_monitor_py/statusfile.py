"""What the running daemon says of itself and its checks, for ``mender-monitorctl status``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mender_monitor_py.checkrecords import Record
from mender_monitor_py.model import OK, CheckId, Stamp

STARTING, UNKNOWN, FAILED, FLAPPING = "starting", "unknown", "failed", "flapping"


def check_status(check: CheckId, record: Record | None, error: str, now: Stamp) -> dict[str, Any]:
    """One check, as the status shows it; *error* is why it does not run at all."""
    shown: dict[str, Any] = {"subsystem": check.subsystem, "name": check.name, "findings": [], "notes": []}
    if error or record is None:
        return shown | {"state": FAILED if error else STARTING, "since": None, "error": error}
    shown["notes"] = [text for _, text in sorted(record.notes.items()) if text]
    bad = [(key, state) for key, state in sorted(record.states.items()) if state.bad]
    shown["findings"] = [
        {
            "key": key,
            "level": state.last.level if state.last is not None else OK,
            "name": state.last.name if state.last is not None else "",
            "since": _wall(state.since, now),
            "told": state.told != OK or state.told_flapping,
        }
        for key, state in bad
    ]
    since = max((state.since for state in record.states.values()), default=None)
    if record.unknown:
        state = UNKNOWN
    elif any(state.flapping for state in record.states.values()):
        state = FLAPPING
    elif bad:
        state = next((s.last.level for _, s in bad if s.last is not None), OK)
    else:
        state = OK if record.seen else STARTING
    return shown | {
        "state": state,
        "since": None if since is None else _wall(since, now),
        "error": record.unknown,
    }


def write(
    path: Path, daemon: Mapping[str, Any], checks: Iterable[Mapping[str, Any]], others: Mapping[str, Any]
) -> None:
    """Replace the status file; on a memory file system, so that nothing wears. Raises OSError."""
    content = json.dumps({"daemon": daemon, "checks": list(checks), **others}, indent=1)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write(content + "\n")
    temporary.replace(path)


def _wall(boottime: float, now: Stamp) -> float:
    return round(now.wall - (now.boottime - boottime), 3)
