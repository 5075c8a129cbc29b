"""
The kernel's word on what may be a set-uid executable, between two scans.

fanotify for whole file systems where that is permitted; inotify for the content of known files, and where
there is no fanotify also for the folders in which an attacker's file comes to be, as a rule.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.fileevents import FileEvents, Touched
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.mounts import Mount, WatchedMounts
from mender_monitor_py.host.pathwatch import PathWatch
from mender_monitor_py.setuidlist import is_below
from mender_monitor_py.subsystems.base import Report

_USUAL = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/usr/local/bin", "/usr/local/sbin", "/home", "/root")  # noqa: S108


class Scope(Protocol):
    """What is looked for, and where."""

    @property
    def bits(self) -> int: ...

    @property
    def capabilities(self) -> bool: ...

    def walks(self, mounts: Iterable[Mount]) -> list[str]: ...

    def excludes(self, path: str) -> bool: ...


class SetuidEvents:
    """
    Calls *touched* with a path that is worth a look, and the pid of who did it (0: not known); *rescan* when
    that cannot be told. *walks* are the trees to look through, *mounts* what is mounted.
    """

    def __init__(
        self,
        host: Host,
        report: Report,
        scope: Scope,
        touched: Callable[[str, int], None],
        rescan: Callable[[], None],
    ) -> None:
        self._report = report
        self._scope = scope
        self._touched = touched
        self._rescan = rescan
        self._known: Collection[str] = ()
        self._table = WatchedMounts(self._mounts_changed)
        self._events: FileEvents | None = None
        self._missing = ""
        self._paths = PathWatch(host.inotify, self._path_changed, rescan)
        self.mounts: list[Mount] = []
        self.walks: list[str] = []

    def refresh(self) -> None:
        """Read the mounts, and have the events of their file systems. Raises UnknownError."""
        self._take(self._table.read())

    def watch(self, known: Collection[str]) -> None:
        """Watch the content of *known*, and whether they are there."""
        self._known = known
        usual = [path for path in _USUAL if self._missing and self._covers(path) and Path(path).is_dir()]
        self._paths.watch(known, usual)
        self._report.note("inotify", self._paths.problem)

    def close(self) -> None:
        self._paths.close()
        if self._events is not None:
            self._events.close()
        self._table.close()

    def _take(self, mounts: list[Mount]) -> None:
        self.walks, self.mounts = self._scope.walks(mounts), mounts
        try:
            if self._events is None:
                self._events = FileEvents(self._seen, self._rescan)
            self._missing = ", ".join(self._events.mark(self._walked()))
        except UnknownError as error:
            self._missing = str(error)
        waits = f"not all is seen at once, but by the next scan: {self._missing}"
        self._report.note("events", waits if self._missing else "")

    def _walked(self) -> list[Mount]:
        """The mounts that the trees are on."""
        on_top = {mount.path: mount for mount in self.mounts}
        found = {}
        for walk in self.walks:
            above = [path for path in on_top if is_below(walk, path)]
            if above:
                path = max(above, key=len)
                found[path] = on_top[path]
        return list(found.values())

    def _mounts_changed(self) -> None:
        before = self.walks, [mount.nosuid for mount in self._walked()]
        try:
            self._take(self._table.read())
        except UnknownError:
            self._rescan()  # which tells
            return
        if (self.walks, [mount.nosuid for mount in self._walked()]) != before:
            self._rescan()

    def _seen(self, seen: Touched) -> None:
        # What is in a folder that was made is told by itself; what is in one that was moved is not.
        folder = stat.S_ISDIR(seen.mode) and seen.moved
        if (folder or self._matters(seen.path, seen.mode)) and self._covers(seen.path):
            self._touched(seen.path, seen.pid)

    def _path_changed(self, path: str) -> None:
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            mode = 0
        folder = stat.S_ISDIR(mode) and bool(self._missing)
        if self._covers(path) and (folder or self._matters(path, mode)):
            self._touched(path, 0)

    def _matters(self, path: str, mode: int) -> bool:
        if path in self._known:
            return True
        return stat.S_ISREG(mode) and bool(mode & self._scope.bits or self._has_capabilities(path, mode))

    def _has_capabilities(self, path: str, mode: int) -> bool:
        if not (self._scope.capabilities and mode & 0o111):
            return False
        try:
            return bool(os.getxattr(path, "security.capability", follow_symlinks=False))
        except OSError:
            return False

    def _covers(self, path: str) -> bool:
        return any(is_below(path, walk) for walk in self.walks) and not self._scope.excludes(path)
