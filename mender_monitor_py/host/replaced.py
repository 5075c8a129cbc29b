"""Processes whose executable was removed, and those of them that a deployment explains."""

# ruff: noqa: PTH116, PTH120 - pathlib takes several times as long, and a look is hundreds of these calls

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mender_monitor_py.host.procfs import DELETED, Procfs, container_of, since_boot
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
    """
    The processes whose executable was removed, of this system and not of a container.

    In a mount namespace of his own anybody can have a file of any path, as the kernel tells it. But without
    being root that takes a user namespace, and a container has a process namespace: such ones are left out.
    """
    for pid in procfs.pids():
        with suppress(OSError):
            executable, stat = procfs.executable(pid), procfs.stat(pid)
            if not executable or stat is None or not _is_deleted(executable):
                continue
            identity = _identity(procfs, pid)
            paths = _paths(procfs, pid, executable.removesuffix(DELETED), identity[0])
            if paths:
                yield Orphan(pid, since_boot(stat.start), paths, ReplacedFile(paths[0], *identity))


def _paths(procfs: Procfs, pid: int, path: str, device: int) -> tuple[str, ...]:
    """Where the file that *pid* runs may have been: *path* is what the kernel says of one on *device*."""
    if _shares(procfs, "mnt", pid):
        return (path,)
    if not (_shares(procfs, "user", pid) and _shares(procfs, "pid", pid)) or container_of(procfs.cgroup(pid)):
        return ()
    return tuple(one for one in (path, f"/usr{path}", f"/etc{path}") if _device(one) == device)


def _shares(procfs: Procfs, kind: str, pid: int) -> bool:
    """Whether *pid* is in the same namespace of a *kind* as the first process, or as we are."""
    found = procfs.namespace(kind, pid)
    return bool(found) and found in (procfs.namespace(kind, 1), procfs.namespace(kind, "self"))


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
