"""The programs of this package: most of them come and go, and do not run while a list is learned."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.proclist import Image

_PACKAGE = Path(__file__).parents[1]
_COMMANDS = (
    "mender-monitorctl", "monitorctl", "mender-monitord", "mender-monitor-hook", "mender-monitor-sender",
)  # fmt: skip
_RUNNER = Path("/usr/share/mender-monitor-py/runner.py")  # see scripts/systemd/mender-monitor-runner@.service


def own_programs(procfs: Procfs) -> list[Image]:
    """What they run as, those that are installed. Raises PermissionError."""
    python = procfs.executable(os.getpid())
    if not python:
        return []
    # The commands are beside the one that is running.
    commands = [Path(sys.argv[0]).absolute().parent / name for name in _COMMANDS]
    modules = [
        _PACKAGE / f"{name}.py"
        for name in ("payload", "postman", "rebaseline", "scan", "verifier", "vulnscanner")
    ]
    return [Image(python, str(path)) for path in (*commands, *modules, _RUNNER) if path.is_file()]
