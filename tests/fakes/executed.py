"""Processes from their command line, which others look for, to their end."""

from __future__ import annotations

import os
import select
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


def ended(pid: int) -> None:
    """Wait until *pid* has ended: its end was asked for. Raises AssertionError."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 60)[0]
    finally:
        os.close(descriptor)
