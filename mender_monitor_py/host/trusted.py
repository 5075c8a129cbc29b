"""
What nobody but root could have written, when root runs the program: files that it will obey, and links.
"""

# ruff: noqa: PTH115, PTH116 - a path that each look at the processes asks for: pathlib takes several times as long

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host.regularfile import open_regular

MAX_SIZE = 64 * 1024  # bytes
_MAX_LINKS = 40  # as the kernel has it, see path_resolution(7)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Version(NamedTuple):
    """Which content of which file it was; mtime in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime: int


def require(path: Path) -> None:
    """Raise DefinitionError when *path* is missing, or root asks and another user could have written it."""
    try:
        real = Path(os.path.realpath(path, strict=True))
        if os.geteuid() == 0:
            _require_roots_own(path, real)
    except OSError as error:
        raise DefinitionError(_reason(path, error), file=str(path)) from error


def read(path: Path) -> tuple[bytes, Version]:
    """
    The content of *path*, and which version of it that is.

    Never blocks: nothing but a regular file is opened. Raises DefinitionError when it is missing, too big,
    or when another user than root could have written it and root asks.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        if not stat.S_ISREG(real.stat().st_mode):
            raise DefinitionError("is not a regular file", file=str(path))
        if os.geteuid() == 0:
            _require_roots_own(path, real)
        with open_regular(real, follow=False) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise DefinitionError(_reason(path, error), file=str(path)) from error
    if len(data) > MAX_SIZE:
        raise DefinitionError(f"is bigger than {MAX_SIZE // 1024} KiB", file=str(path))
    return data, Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def real_path(path: str) -> str:
    """
    What the absolute *path* leads to, where nobody but root (and who runs this) can have it lead elsewhere.

    Else, when it leads nowhere, and where /proc has the link, which each process finds to be another one:
    *path* itself.
    """
    found, waiting, links = "", path.split("/")[::-1], 0
    try:
        own = _is_own(os.stat("/"))
        while waiting:
            name = waiting.pop()
            if name in ("", "."):
                continue
            if name == "..":
                found = found.rpartition("/")[0]
                continue
            step = f"{found}/{name}"
            status = os.lstat(step)
            own = own and _is_own(status)  # of each folder on the way, and of each link
            if not stat.S_ISLNK(status.st_mode):
                found = step
                continue
            links += 1
            if links > _MAX_LINKS or not own or step.startswith("/proc/"):
                return path
            target = os.readlink(step)
            found = "" if target.startswith("/") else found
            waiting += target.split("/")[::-1]
    except OSError:
        return path
    return found or "/"


def _is_own(status: os.stat_result) -> bool:
    """Whether what *status* is of can be replaced by root alone, and by who runs this."""
    if status.st_uid not in (0, os.geteuid()):
        return False
    return stat.S_ISLNK(status.st_mode) or not _others_write(status)


def _others_write(status: os.stat_result) -> bool:
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return bool(status.st_mode & _OTHERS_WRITE) and not sticky


def _require_roots_own(path: Path, real: Path) -> None:
    # Who can write a folder above the file, or above the link to it, can put another file in its place.
    link_folder = Path(os.path.realpath(path.parent))
    for part in dict.fromkeys((real, *real.parents, link_folder, *link_folder.parents)):
        status = part.stat()
        name = "it" if part == real else str(part)
        if status.st_uid != 0:
            owner = f"{name} belongs to user {status.st_uid}"
            raise DefinitionError(f"is not read by root: {owner}, not to root", file=str(path))
        if _others_write(status):
            mode = f"mode {stat.S_IMODE(status.st_mode):o}"
            raise DefinitionError(
                f"is not read by root: others than root can write {name} ({mode})", file=str(path)
            )


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"is a link to {path.readlink()}, which does not exist"
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read: {error.strerror}"
