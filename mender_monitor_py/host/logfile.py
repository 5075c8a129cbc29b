"""
One open log file: whole lines in blocks, and positions that stay right over truncation and restarts.

Who reads holds a :class:`Cursor`. Readers at one position share what is read; nothing is held while there is
nothing to read.
"""

from __future__ import annotations

import os
import stat
from binascii import crc32
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.loglines import LINE, too_long

BLOCK = 262_144  # bytes that are read at once
_MARK = 1_024  # bytes before a position that must be what they were
_CONTEXT = 65_536  # bytes around a block that are searched for context lines
_COUNTED = 1_048_576  # bytes at the begin of a file whose lines are counted
_CONFIRM_S = 1.0


class Position(NamedTuple):
    """Where a reader is, to be stored: *mark* and *crc* are the size and CRC-32 of what precedes *offset*."""

    device: int
    inode: int
    offset: int
    mark: int
    crc: int
    skipping: int


class _Look(NamedTuple):
    """What a file was like at its end: *changes* is the kernel's word, counted."""

    size: int
    mtime: int
    changes: int


_NEVER = _Look(-1, 0, 0)


@dataclass(slots=True)
class Cursor:
    """
    How far one reader is.

    Everything before *offset* was read; *mark* is what precedes it. The *tail* bytes behind it hold no
    newline. *skipping*: what follows is the rest of a line that was cut. *lost* is where it was when the file
    was found to have another content.
    """

    offset: int = 0
    mark: bytes = b""
    tail: int = 0
    skipping: bool = False
    lost: Position | None = None
    seen: _Look = _NEVER
    suspected: tuple[int, float] = (0, 0.0)

    def advance(self, data: bytes) -> None:
        self.offset += len(data)
        self.mark = (self.mark + data[-_MARK:])[-_MARK:]
        self.tail = 0


@dataclass(frozen=True, slots=True)
class Block:
    """
    Whole lines that begin *offset* bytes into *file*; it may be empty.

    Each ends with a newline, but for the last one of a file that nobody writes to any more. *cut*: this is
    the begin of a single line, longer than 64 KiB.
    """

    data: bytes
    file: LogFile
    offset: int
    cut: bool = False

    def before(self, begin: int, count: int) -> list[bytes]:
        """Up to *count* lines before the one that begins at *begin*, as far as they are near."""
        if not count:
            return []
        lines = _lines(self.data[:begin])[-count:]
        if len(lines) < count and self.offset:
            start = max(self.offset - _CONTEXT, 0)
            earlier = self.file.pread(self.offset - start, start)
            if start:
                earlier = earlier[earlier.find(b"\n") + 1 :]
            lines = _lines(earlier)[len(lines) - count :] + lines
        return lines

    def after(self, end: int, count: int) -> list[bytes]:
        """Up to *count* lines after the one that ends at *end*: those that are there now."""
        if not count or self.cut:
            return []
        lines = _lines(self.data[end + 1 :])[:count]
        if len(lines) < count:
            later = self.file.pread(_CONTEXT, self.offset + len(self.data))
            lines += _lines(later[: later.rfind(b"\n") + 1])[: count - len(lines)]
        return lines

    def number(self, begin: int) -> int | None:
        """The number in its file, from 1, of the line that begins at *begin*. None: too far to count."""
        if self.offset > _COUNTED:
            return None
        return self.file.pread(self.offset, 0).count(b"\n") + self.data.count(b"\n", 0, begin) + 1


class LogFile:
    """
    An open regular file.

    *changes* counts how often the kernel told that it was written to, *closed* whether its last writer then
    closed it (None: unknown). *suspicious*: a reader wants to look again in a while.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError when *path* cannot be opened, UnknownError when it is not a regular file."""
        _require_regular(path, path.stat())  # to open a device or a pipe can have effects of its own
        self._fd = _open(path)
        status = os.fstat(self._fd)
        self.identity = (status.st_dev, status.st_ino)
        self.changes = 0
        self.closed: bool | None = None
        self.suspicious = False
        self._shared: tuple[Block, bytes, Cursor] | None = None

    def close(self) -> None:
        os.close(self._fd)
        self._shared = None

    def reopen(self, path: Path) -> None:
        """Read what *path* leads to now: the same file in another layer. Raises OSError, UnknownError."""
        fd = _open(path)
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    @property
    def by_descriptor(self) -> Path:
        """A path that leads to this very file, whatever its name is now (proc(5))."""
        return Path(f"/proc/self/fd/{self._fd}")

    def status(self) -> os.stat_result:
        return os.fstat(self._fd)

    def pread(self, count: int, offset: int) -> bytes:
        return os.pread(self._fd, count, offset)

    def position(self, cursor: Cursor) -> Position:
        mark = cursor.mark
        return Position(*self.identity, cursor.offset, len(mark), crc32(mark), cursor.skipping)

    def resume(self, position: Position) -> Cursor | None:
        """A reader at *position*. None: the file does not have what was before it."""
        mark = b""
        if position.mark:
            mark = self.pread(position.mark, max(position.offset - position.mark, 0))
        if len(mark) < position.mark or crc32(mark) != position.crc:
            return None
        return Cursor(position.offset, mark, skipping=bool(position.skipping))

    def read(self, cursor: Cursor, now: float) -> Block | None:
        """
        The next block for *cursor*. None: there is nothing to read now.

        A file with another content is read from its begin; ``cursor.lost`` is set and the block is empty.
        Raises OSError.
        """
        if self._shared is not None:
            block, mark, after = self._shared
            if block.offset == cursor.offset and mark == cursor.mark and not cursor.skipping:
                cursor.offset, cursor.mark, cursor.skipping = after.offset, after.mark, after.skipping
                cursor.tail = 0
                return block
        found = self._read(cursor, now)
        if found is None:
            self._shared = None
            return None
        block, mark = found
        after = Cursor(cursor.offset, cursor.mark, skipping=cursor.skipping)
        self._shared = (block, mark, after) if block.data else None
        return block

    def rest(self, cursor: Cursor) -> Block | None:
        """The last line of a file that nobody writes to any more, if it has no newline."""
        if not cursor.tail or cursor.skipping:
            return None
        data = self.pread(LINE, cursor.offset)
        block = Block(data, self, cursor.offset)
        cursor.advance(data)
        return block

    def _read(self, cursor: Cursor, now: float) -> tuple[Block, bytes] | None:
        """A block, and the mark before it."""
        while True:
            status = os.fstat(self._fd)
            look = _Look(status.st_size, status.st_mtime_ns, self.changes)
            available = look.size - cursor.offset - cursor.tail
            if available < 0 or self._is_other_content(cursor, look, now):
                cursor.lost = self.position(cursor)
                cursor.offset, cursor.mark, cursor.tail, cursor.skipping = 0, b"", 0, False
                return Block(b"", self, 0), b""
            if available == 0:
                return None
            data = self.pread(min(available, BLOCK), cursor.offset + cursor.tail)
            if not data:
                return None  # truncated just now: the kernel will tell
            if cursor.skipping:
                end = data.find(b"\n") + 1
                cursor.skipping = not end
                cursor.advance(data[:end] if end else data)
                return Block(b"", self, cursor.offset), cursor.mark
            end = data.rfind(b"\n") + 1
            if not end:
                cursor.tail += len(data)
                if cursor.tail > LINE:
                    return self._cut(cursor, self.pread(cursor.tail, cursor.offset))
                continue
            if cursor.tail:
                data = self.pread(cursor.tail + end, cursor.offset)
                end = data.rfind(b"\n") + 1
                if not end:
                    return None
            return self._whole(cursor, data, end)

    def _is_other_content(self, cursor: Cursor, look: _Look, now: float) -> bool:
        """Whether the file was written anew since *cursor* was at its end. Notes what it is like now."""
        at_end = look.size == cursor.offset + cursor.tail
        if at_end and look == cursor.seen:
            return False
        size = len(cursor.mark)
        if size and self.pread(size, cursor.offset - size) != cursor.mark:
            return True
        if not at_end:
            return False
        # An append changes the size. This was written without that, as by "scan >results" that finds the same
        # as before. A write that is on its way sets the time first and the size later, hence the second look.
        rewritten = look.size == cursor.seen.size and look.mtime != cursor.seen.mtime
        if rewritten and look.changes != cursor.seen.changes and look.size:
            if not self.closed:
                return False
            if cursor.suspected[0] != look.mtime:
                cursor.suspected = (look.mtime, now)
            if now - cursor.suspected[1] < _CONFIRM_S:
                self.suspicious = True
                return False
            cursor.seen = look
            return True
        cursor.seen = look
        return False

    def _whole(self, cursor: Cursor, data: bytes, end: int) -> tuple[Block, bytes]:
        """The lines up to *end*, or up to the first that is too long, or that one."""
        long = too_long(data, end)
        if long == 0:
            return self._cut(cursor, data[: data.find(b"\n", LINE) + 1])
        lines = data[:long]
        mark = cursor.mark
        block = Block(lines, self, cursor.offset)
        cursor.advance(lines)
        return block, mark

    def _cut(self, cursor: Cursor, data: bytes) -> tuple[Block, bytes]:
        """*data* is (the begin of) one line that is too long."""
        mark = cursor.mark
        block = Block(data[:LINE], self, cursor.offset, cut=True)
        cursor.advance(data)
        cursor.skipping = not data.endswith(b"\n")
        return block, mark


def _open(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _require_regular(path, os.fstat(fd))
    except UnknownError:
        os.close(fd)
        raise
    return fd


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnknownError(f"{path} is not a regular file")


def _lines(data: bytes) -> list[bytes]:
    """The lines of *data*, without their newlines."""
    return data.removesuffix(b"\n").split(b"\n") if data else []
