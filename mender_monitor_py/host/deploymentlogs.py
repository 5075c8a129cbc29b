"""The update client's log files, one a deployment: in the folder that mender.conf names, the newest five."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mender_monitor_py.deploymentlog import MAX_JSON, NAME, DeploymentLog, parse
from mender_monitor_py.errors import UnknownError

# So much of a log is read, in such pieces; the newest piece line by line.
_MOST = 16 * 1024 * 1024
_PIECE = 262_144
# Enough for the line that ends it; to read all at each line of a module that talks would take long.
LAST = 8_192
_MOST_FILES = 32


@dataclass(frozen=True, slots=True)
class LogFile:
    """
    The log of *deployment*, written last at *changed*, in nanoseconds.

    *number* is the client's: the newest has the lowest.
    """

    deployment: str
    path: Path
    changed: int
    size: int
    number: int = 0


def listing(folder: Path) -> list[LogFile]:
    """
    The logs in *folder*, the newest first. No folder: none.

    The client numbers them anew when the next deployment begins, whatever the clock says then. Of one id, as
    of a deployment that is tried again after others, there may be several. Raises UnknownError.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = NAME.fullmatch(entry.name)
                if name is not None and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    path, changed = Path(entry.path), status.st_mtime_ns
                    found.append(LogFile(name[2], path, changed, status.st_size, int(name[1])))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnknownError(
            f"the update client's logs in {folder} cannot be read: {error.strerror}"
        ) from error
    return sorted(found, key=lambda file: (file.number, -file.changed))[:_MOST_FILES]


def read(file: LogFile, end: int = _MOST) -> DeploymentLog:
    """What the last *end* bytes of *file* tell. Raises UnknownError when it cannot be read."""
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise UnknownError(f"{file.path} is not a regular file")
            size = status.st_size
            return parse(file.deployment, _lines(fd, max(size - end, 0), size), size - _PIECE)
        finally:
            os.close(fd)
    except OSError as error:
        raise UnknownError(f"{file.path} cannot be read: {error.strerror}") from error


def _lines(fd: int, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines between two places, each with its place; the first may be cut, and one that is too long."""
    rest, place = b"", begin
    while place + len(rest) < end:
        read = place + len(rest)
        piece = os.pread(fd, min(_PIECE, end - read), read)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield place, line
            place += len(line) + 1
        if len(rest) > MAX_JSON:
            rest, place = b"", place + len(rest)
    yield place, rest
