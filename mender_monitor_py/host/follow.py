"""
Log files that are followed by name, over rotation, truncation, deletion and return.

The kernel tells of every change (inotify(7)); one slow look at all files finds what it does not tell of, as
on network file systems.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from mender_monitor_py.host.followed import Followed
from mender_monitor_py.host.inotify import Inotify
from mender_monitor_py.host.logfile import Position
from mender_monitor_py.host.stream import Stream

_LOOK_S = 60.0


class Files:
    """Follows files, each once however many checks read it."""

    def __init__(self, inotify: Inotify) -> None:
        self._inotify = inotify
        self._followed: dict[Path, Followed] = {}
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, path: Path, memory: str = "") -> Stream:
        """
        The lines of *path*, which is absolute and need not be there, from where *memory* says.

        *memory* is what :attr:`Stream.memory` was. Without it, from the begin of the file.
        """
        followed = self._followed.get(path)
        if followed is None:
            followed = self._followed[path] = Followed(path, self._inotify, self._forget)
            followed.look()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)
        return followed.attach(_positions(memory, path))

    async def aclose(self) -> None:
        """Close every file; streams give nothing any more."""
        for followed in list(self._followed.values()):
            followed.close()

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)
        for followed in self._followed.values():
            followed.look()

    def _forget(self, path: Path) -> None:
        del self._followed[path]
        if not self._followed and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def end_of(path: Path) -> str:
    """The memory of a stream that has read all that *path* holds now. Empty: it is not there."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(status.st_size - 1, 0))
            within_line = file.read(1) not in (b"", b"\n")
    except OSError:
        return ""
    position = Position(status.st_dev, status.st_ino, status.st_size, 0, 0, within_line)
    return json.dumps({"path": str(path), "at": [position]}, separators=(",", ":"))


def _positions(memory: str, path: Path) -> list[Position]:
    """The positions that a stream of *path* remembered. None: it did not, or it was of another path."""
    try:
        stored = json.loads(memory or "{}")
        if stored.get("path") != str(path):
            return []
        return [Position(*map(int, numbers)) for numbers in stored["at"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
