"""Processes that others look for by their command lines."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any


def executed(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """
    Start *command*, and return when its command line can be read.

    Popen returns once the child has left our memory, which is before execve(2) has written the new one's.
    """
    process = subprocess.Popen(command, **options)
    while process.poll() is None and not Path(f"/proc/{process.pid}/cmdline").read_bytes():
        time.sleep(0.001)
    return process
