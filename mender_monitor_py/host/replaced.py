"""Processes whose executable was removed, and those of them that a deployment explains."""

# ruff: noqa: PTH116, PTH120 - pathlib takes several times as long, and a look is hundreds of these calls

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mender_monitor_py.host.procfs import DELETED, Procfs, since_boot
from mender_monitor_py.replacedfiles import MOST, ReplacedFile


class Orphan(NamedTuple):
    """
    A process whose executable was removed, or replaced by another file.

    *started* is by CLOCK_BOOTTIME; *paths* are where its file may have been: the kernel tells the path from
    the root of the mount, when that is in another mount namespace. *file* has the first of them.
    """

    pid: int
    started: float
    paths: tuple[str, ...]
    file: ReplacedFile

    @property
    def removed(self) -> float:
        """When its file was removed, in seconds since the epoch; before, where an overlayfs does not tell."""
        return self.file.changed / 1e9


class Replaced:
    """
    The files that a deployment has replaced and that are run still.

    It ends with the last process that runs it: no other file is ever taken for it.
    """

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self._files: dict[tuple[int, int, int], ReplacedFile] = {}
        self._listeners: set[Callable[[], None]] = set()

    @property
    def files(self) -> list[ReplacedFile]:
        return list(self._files.values())

    def add(self, files: Iterable[ReplacedFile]) -> None:
        """Take *files* as well, as far as they are run; of all MOST at most. The listeners are told."""
        running = set(self._running())
        known = [file for file in (*self._files.values(), *files) if file.identity in running]
        self._files = {file.identity: file for file in known[:MOST]}
        for listener in list(self._listeners):
            listener()

    def path(self, pid: int) -> str:
        """Where the file that *pid* runs was, when it is one of these; empty: it is none."""
        if not self._files:
            return ""
        file = self._files.get(_identity(self._procfs, pid))
        return file.path if file is not None else ""

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have *callback* called when there are others; returns what ends that."""
        self._listeners.add(callback)
        return lambda: self._listeners.discard(callback)

    def _running(self) -> Iterator[tuple[int, int, int]]:
        for pid in self._procfs.pids():
            yield _identity(self._procfs, pid)


def orphans(procfs: Procfs) -> Iterator[Orphan]:
    """The processes whose executable was removed, of this file system tree and not of a container's."""
    ours = {procfs.mount_namespace("self"), procfs.mount_namespace(1)} - {""}
    for pid in procfs.pids():
        with suppress(OSError):
            executable, stat = procfs.executable(pid), procfs.stat(pid)
            if not executable or stat is None or not _is_deleted(executable):
                continue
            identity = _identity(procfs, pid)
            path = executable.removesuffix(DELETED)
            same_tree = procfs.mount_namespace(pid) in ours
            paths = (path,) if same_tree else (path, f"/usr{path}", f"/etc{path}")
            there = tuple(one for one in paths if same_tree or _device(one) == identity[0])
            if there:
                yield Orphan(pid, since_boot(stat.start), there, ReplacedFile(there[0], *identity))


def _is_deleted(executable: str) -> bool:
    """Whether the file of a process was removed; else that is the end of its name."""
    return executable.startswith("/") and executable.endswith(DELETED) and not os.path.lexists(executable)


def _identity(procfs: Procfs, pid: int) -> tuple[int, int, int]:
    """The file that *pid* runs; see :class:`ReplacedFile`. Nothing that is a file's: it cannot be read."""
    try:
        found = os.stat(f"{procfs.path}/{pid}/exe")
    except OSError:
        return 0, 0, 0
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _device(path: str) -> int:
    """The file system that has the file at *path*, or the nearest folder above it that is there."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.lstat(path).st_dev
