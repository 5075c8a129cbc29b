"""The words that state scripts have left for the daemon, and what has become of them."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mender_monitor_py import deploymentevents
from mender_monitor_py.deploymentevents import Event
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import inotify, spool

WHOLE_S = 60.0  # one that is not whole by then was left by a writer that has ended

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Word:
    """An *event*, and the file that tells it."""

    event: Event
    path: Path


class Words:
    """
    The files in *folder*. *wake* is called when there is another one.

    A file stays until what it led to is on the disk, and is judged once: one check has the folder.
    """

    def __init__(self, folder: Path, kernel: inotify.Inotify, wake: Callable[[], None]) -> None:
        self._folder = folder
        self._inotify = kernel
        self._wake = wake
        self._watch: inotify.Watch | None = None
        self._judged: set[Path] = set()
        self._lock = -1

    def watch(self) -> None:
        """
        The folder is made here: the scripts write nothing where there is none.

        Raises UnknownError when another check has it.
        """
        if self._watch is not None and self._watch.active:
            return
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._take()
            self._watch = self._inotify.watch(
                self._folder, inotify.IN_CLOSE_WRITE | inotify.IN_MOVED_TO, lambda _: self._wake()
            )

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._release()

    def _take(self) -> None:
        self._release()
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnknownError(
                "another deployment check tells all that this one could: disable one"
            ) from None

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def read(self, complete: Callable[[Event], Event], is_told: Callable[[Event], bool]) -> list[Word]:
        """
        What was not judged yet, the oldest first, each made *complete*.

        What *is_told* elsewhere is removed, and what is of no use.
        """
        found: dict[int, Word] = {}
        for path, data, age in spool.read(self._folder, deploymentevents.MAX_SIZE):
            if path in self._judged:
                continue
            try:
                event = deploymentevents.parse(data)
            except ValueError as error:
                log.warning("%s is removed: %s", path, error)
                spool.remove(path)
                continue
            if event is None:
                if age > WHOLE_S:
                    spool.remove(path)
                continue
            event = complete(event)
            if is_told(event):
                spool.remove(path)
            else:
                found[id(event)] = Word(event, path)
        return [
            found[id(event)] for event in deploymentevents.in_order(word.event for word in found.values())
        ]

    @property
    def kept(self) -> bool:
        """Whether there are files that were judged, and wait for the disk."""
        return bool(self._judged)

    def judged(self, words: Collection[Word], *, durable: bool) -> None:
        """These were judged. They are kept for the next start until what they led to is on the disk."""
        self._judged.update(word.path for word in words)
        if durable:
            for path in self._judged:
                spool.remove(path)
            self._judged.clear()

    def forget(self) -> None:
        """Remove all."""
        for path, _, _ in spool.read(self._folder, 0):
            spool.remove(path)
