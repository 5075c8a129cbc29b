"""Watches what paths are, by inotify: the files, the folders they are in, and the links on the way."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from mender_monitor_py.host import inotify

log = logging.getLogger(__name__)

_EVENTS = (
    inotify.IN_MODIFY
    | inotify.IN_ATTRIB
    | inotify.IN_CLOSE_WRITE
    | inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVE_SELF
)
_ELSEWHERE = inotify.IN_Q_OVERFLOW | inotify.IN_UNMOUNT | inotify.IN_MOVE_SELF | inotify.IN_DELETE_SELF
_NEW_ENTRY = inotify.IN_CREATE | inotify.IN_DELETE | inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO
_MAX_LINKS = 40  # as the kernel has it, see path_resolution(7)


class PathWatch:
    """
    Calls *changed* with the path of an entry that is new, gone or other, in a folder that holds a watched
    file; and *elsewhere* when watched paths may lead to other files than before.

    Writing by another name of the same file (a hard link) is not told by the folder: such files are watched
    themselves. *problem* says what could not be watched.
    """

    def __init__(
        self,
        watcher: inotify.Inotify,
        changed: Callable[[str], None],
        elsewhere: Callable[[], None],
    ) -> None:
        self._inotify = watcher
        self._changed = changed
        self._elsewhere = elsewhere
        self._watches: dict[str, inotify.Watch] = {}
        self._turns: dict[str, set[str]] = {}  # in a folder: the entries that paths go through
        self._aliases: dict[str, list[str]] = {}
        self.problem = ""

    def watch(self, paths: Iterable[str], folders: Iterable[str] = ()) -> None:
        """Watch *paths*, and each entry of *folders*, and nothing else."""
        self._aliases, self._turns, self.problem = {}, {}, ""
        wanted = set(folders)
        real: dict[str, str] = {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            if folder not in real:
                real[folder] = self._follow(folder or "/")
            wanted.add(real[folder])
            found = _join(real[folder], name)
            status = _lstat(found)
            if status is not None and _is_link(status):
                found = self._follow(found)
                wanted.add(found.rpartition("/")[0] or "/")
                status = _lstat(found)
            if found != path:
                self._aliases.setdefault(found, []).append(path)
            if status is not None and status.st_nlink > 1:
                wanted.add(found)
        wanted |= self._turns.keys()
        for path in [path for path, watch in self._watches.items() if path not in wanted or not watch.active]:
            self._watches.pop(path).cancel()
        for path in sorted(wanted - self._watches.keys()):
            self._add(path)

    def names(self, path: str) -> list[str]:
        """*path*, and the watched paths that lead there."""
        return [path, *self._aliases.get(path, ())]

    def close(self) -> None:
        for watch in self._watches.values():
            watch.cancel()
        self._watches.clear()

    def _add(self, path: str) -> None:
        try:
            self._watches[path] = self._inotify.watch(
                Path(path), _EVENTS, lambda event: self._event(path, event)
            )
        except FileNotFoundError:
            return  # the turn to it is watched, in the folder above
        except OSError as error:
            self.problem = f"{path} is not watched: {error.strerror}"
            log.debug("%s", self.problem)

    def _event(self, path: str, event: inotify.Event) -> None:
        if event.mask & _ELSEWHERE:
            self._elsewhere()
        elif not event.name:
            self._changed(path)
        else:
            if event.mask & _NEW_ENTRY and event.name in self._turns.get(path, ()):
                self._elsewhere()
            self._changed(_join(path, event.name))

    def _follow(self, path: str) -> str:
        """Where *path* really leads, noting each turn on the way: what comes in the place of one matters."""
        found, waiting, links = "/", path.split("/")[::-1], 0
        while waiting:
            name = waiting.pop()
            if name in ("", "."):
                continue
            if name == "..":
                found = found.rpartition("/")[0] or "/"
                continue
            self._turns.setdefault(found, set()).add(name)
            step = _join(found, name)
            try:
                target = os.readlink(step)  # noqa: PTH115
            except OSError:  # EINVAL: no link; ENOENT: nothing there yet
                found = step
                continue
            links += 1
            if links > _MAX_LINKS:
                return path
            if target.startswith("/"):
                found = "/"
            waiting += target.split("/")[::-1]
        return found


def _join(folder: str, name: str) -> str:
    return f"/{name}" if folder == "/" else f"{folder}/{name}"


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_link(status: os.stat_result) -> bool:
    return (status.st_mode & 0o170000) == 0o120000
