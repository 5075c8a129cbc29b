"""The end of a process, told by the kernel; see pidfd_open(2). Works for any process, in containers too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


class ProcessEnd:
    """
    Calls *callback* once in the running loop, when the process *pid* ends.

    Raises ProcessLookupError when it has ended, OSError when the kernel has no such thing (before 5.3).
    """

    def __init__(self, pid: int, callback: Callable[[], None]) -> None:
        self._fd = os.pidfd_open(pid)
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ended)

    def close(self) -> None:
        """No call after this."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ended(self) -> None:
        self.close()
        self._callback()
