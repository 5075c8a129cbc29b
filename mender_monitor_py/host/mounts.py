"""The mounts of a mount namespace, and the kernel's word when they change; see proc(5), mountinfo."""

from __future__ import annotations

import asyncio
import os
import re
import select
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py.errors import UnknownError

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """
    A line of mountinfo: the device as ``major:minor``, where it is, and what file system it has.

    *options* are those of the file system, *flags* those of this mount, which shows the folder *root* of it.
    """

    device: str
    path: str
    kind: str
    options: str
    root: str = "/"
    flags: str = ""

    @property
    def nosuid(self) -> bool:
        return "nosuid" in self.flags.split(",")


def parse_mounts(data: bytes) -> list[Mount]:
    """The mounts in the text of mountinfo."""
    found = []
    for line in data.splitlines():
        left, separator, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        if separator and len(fields) > 5:
            device, kind, options, flags = (
                field.decode("ascii", "replace") for field in (fields[2], rest[0], rest[-1], fields[5])
            )
            found.append(Mount(device, _path(fields[4]), kind, options, _path(fields[3]), flags))
    return found


def _path(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda code: bytes([int(code[1], 8) & 0xFF]), field))


def read_mounts(process: str = "self") -> list[Mount]:
    """The mounts as *process* sees them now. Raises UnknownError."""
    path = Path("/proc", process, "mountinfo")
    try:
        return parse_mounts(path.read_bytes())
    except OSError as error:
        raise UnknownError(f"{path} cannot be read: {error.strerror}") from error


def same_mounts(process: str) -> bool:
    """Whether *process* is in our mount namespace; also when that is not ours to see."""
    try:
        return Path("/proc/thread-self/ns/mnt").samefile(f"/proc/{process}/ns/mnt")
    except OSError:
        return True


class MountTable:
    """
    Reads the mounts, and calls *changed* in the running loop when something is mounted or unmounted.

    Those of our own mount namespace, or of that of *process*. Raises OSError.
    """

    def __init__(self, changed: Callable[[], None], process: str = "thread-self") -> None:
        self._fd = os.open(f"/proc/{process}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        # The file is always readable; a change is POLLPRI, which asyncio does not wait for. An epoll of its
        # own is readable when that happens.
        self._epoll = select.epoll()
        self._epoll.register(self._fd, select.EPOLLPRI | select.EPOLLET)
        self._changed = changed
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ready)

    def read(self) -> list[Mount]:
        """The mounts now."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._fd, 65_536):
            parts.append(part)
        return parse_mounts(b"".join(parts))

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            os.close(self._fd)
            self._fd = -1

    def _ready(self) -> None:
        self._epoll.poll(0)  # empty, as a rule: the look that woke us has taken the change for told
        self._changed()


class WatchedMounts:
    """The mounts of our own mount namespace; from the first look on, *changed* is called as by MountTable."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._table: MountTable | None = None

    def read(self) -> list[Mount]:
        """The mounts now. Raises UnknownError."""
        try:
            if self._table is None:
                self._table = MountTable(self._changed)
            return self._table.read()
        except OSError as error:
            raise UnknownError(f"/proc/self/mountinfo cannot be read: {error.strerror}") from error

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
