"""What the daemon says of itself, and whether it runs."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from mender_monitor_py.paths import Paths


def pid(paths: Paths) -> int | None:
    """The process id of the running daemon. None: it does not run."""
    try:
        number = int(paths.pid_file.read_text())
        words = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"_", b"-")
    except (OSError, ValueError):
        return None
    # A pid file that a crash has left may name another process by now.
    return number if b"mender-monitor" in words else None


def status(paths: Paths, number: int | None) -> dict[str, Any]:
    """The status that the daemon *number* has written; empty when there is none of it."""
    with suppress(OSError, ValueError):
        found = json.loads(paths.status.read_text())
        if isinstance(found, dict) and number is not None and found.get("daemon", {}).get("pid") == number:
            return found
    return {}


def send(number: int, signal: int) -> bool:
    """Send *signal* to the daemon; False when it has ended meanwhile. Raises PermissionError."""
    try:
        os.kill(number, signal)
    except ProcessLookupError:
        return False
    return True
