"""Both clocks of the machine."""

from __future__ import annotations

import time
from pathlib import Path

from mender_monitor_py.model import Stamp

# No alert is older than this software: a wall clock before its first release was never set.
FLOOR = 1_760_000_000.0


class Clock:
    """
    Reads the machine's clocks.

    CLOCK_BOOTTIME goes on while the machine sleeps and never jumps (clock_gettime(2)); it is what
    intervals are measured on. The wall clock is for people.
    """

    def __init__(self, boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")) -> None:
        self._boot_id = boot_id_file.read_text().strip()

    def boottime(self) -> float:
        """Seconds since boot, sleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def running(self) -> float:
        """Seconds that the machine has run since boot, without sleep: CLOCK_MONOTONIC."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    def now(self) -> Stamp:
        """This moment on both clocks."""
        wall = time.time()
        return Stamp(self._boot_id, self.boottime(), wall, wall >= FLOOR)
