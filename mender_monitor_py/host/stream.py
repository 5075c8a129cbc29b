"""The lines of one followed file, for one check."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from mender_monitor_py.host.logfile import Block, Cursor, LogFile

if TYPE_CHECKING:
    from mender_monitor_py.host.followed import Followed


class Stream:
    """
    Gives the blocks of a followed file in order, and knows how far they were taken.

    *cursors* is for the followed path: the files to read, the oldest first.
    """

    def __init__(self, followed: Followed) -> None:
        self._followed = followed
        self._more = asyncio.Event()
        self._told = ""
        self._busy = False
        self.cursors: list[tuple[LogFile, Cursor]] = []

    @property
    def problem(self) -> str:
        """Why the file cannot be read; empty when it can, and when it is not there."""
        return self._followed.problem

    @property
    def memory(self) -> str:
        """The position behind the last block, for a restart."""
        positions = [file.position(cursor) for file, cursor in self.cursors]
        return json.dumps({"path": str(self._followed.path), "at": positions}, separators=(",", ":"))

    async def next(self) -> Block | None:
        """The next block, once there is one. None: :attr:`problem` has changed."""
        if self._busy:
            await asyncio.sleep(0)  # the others' turn
        while True:
            block = self._read()
            self._busy = block is not None
            if block is not None:
                return block
            if self.problem != self._told:
                self._told = self.problem
                return None
            self._more.clear()
            await self._more.wait()

    def close(self) -> None:
        """Read no more."""
        self._followed.detach(self)

    def wake(self) -> None:
        """There may be something to read."""
        self._more.set()

    def reads(self, file: LogFile) -> bool:
        return any(file is mine for mine, _ in self.cursors)

    def _read(self) -> Block | None:
        """Old files are read before the newer ones, as long as something is written to them."""
        now = asyncio.get_running_loop().time()
        for index, (file, cursor) in enumerate(self.cursors):
            try:
                block = file.read(cursor, now)
                if cursor.lost is not None:
                    copy = self._followed.copy_of(cursor.lost)
                    cursor.lost = None
                    if copy is not None:
                        self.cursors.insert(index, copy)
                elif block is None and self._followed.is_over(file):
                    block = file.rest(cursor) or Block(b"", file, cursor.offset)
                    del self.cursors[index]
                    self._followed.left(file, cursor)
            except OSError as error:
                self._followed.fail(error)
                return None
            if block is not None:
                return block
        self._followed.second_look()
        return None
