"""The update client's log files, one a deployment: in the folder that mender.conf names, the newest five."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mender_monitor_py.deploymentlog import NAME, DeploymentLog, parse
from mender_monitor_py.errors import UnknownError

_END = 262_144
_HEAD = 16_384
# Enough for the line that ends it; to read all at each line of a module that talks would take long.
LAST = 8_192
_MOST = 32


@dataclass(frozen=True, slots=True)
class LogFile:
    """The log of *deployment*. *changed* is its time in nanoseconds, which tells the newest of them."""

    deployment: str
    path: Path
    changed: int
    size: int


def listing(folder: Path) -> list[LogFile]:
    """
    The logs in *folder*, the newest first. No folder: none.

    Their numbers are no help: files are renamed when the next deployment begins. Raises UnknownError.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = NAME.fullmatch(entry.name)
                if name is not None and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append(LogFile(name[2], Path(entry.path), status.st_mtime_ns, status.st_size))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnknownError(
            f"the update client's logs in {folder} cannot be read: {error.strerror}"
        ) from error
    return sorted(found, key=lambda file: file.changed, reverse=True)[:_MOST]


def read(file: LogFile, end: int = _END) -> DeploymentLog:
    """What the last *end* bytes of *file* tell. Raises UnknownError when it cannot be read."""
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise UnknownError(f"{file.path} is not a regular file")
            data = os.pread(fd, end, max(status.st_size - end, 0))
            head = os.pread(fd, _HEAD, 0) if status.st_size > end == _END else b""
        finally:
            os.close(fd)
    except OSError as error:
        raise UnknownError(f"{file.path} cannot be read: {error.strerror}") from error
    return parse(file.deployment, data, head)
