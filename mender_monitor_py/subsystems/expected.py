"""What a check expects: its baseline and the entries in the check file, read again when the list changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from mender_monitor_py import baseline
from mender_monitor_py.baseline import Listing
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import inotify
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.lists import read_list
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.base import Report

E = TypeVar("E")

log = logging.getLogger(__name__)

_EVENTS = (
    inotify.IN_ATTRIB
    | inotify.IN_CLOSE_WRITE
    | inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_MOVE_SELF
)


def list_path(paths: Paths, check: CheckId) -> Path:
    """The baseline of *check*."""
    return paths.baseline_d / f"{check.subsystem}_{check.name}.list"


class Expected(Generic[E]):
    """
    The expected things of one check.

    *entry* makes one of a line's fields, or raises ValueError; *inline* are those of the check file.
    *changed* is set whenever the list may be another: it is time for :meth:`refresh`.
    """

    def __init__(
        self,
        host: Host,
        report: Report,
        check: CheckId,
        entry: Callable[[Sequence[str]], E],
        inline: tuple[E, ...],
    ) -> None:
        self._host = host
        self._report = report
        self._check = check
        self._entry = entry
        self._inline = inline
        self._path = list_path(host.paths, check)
        self._watch: inotify.Watch | None = None
        self._stale = True
        self.entries: tuple[E, ...] = ()
        self.changed = asyncio.Event()

    def refresh(self) -> bool:
        """
        Read the list if it may have changed; True when the entries are others than before.

        Raises UnknownError when there is nothing to compare with, or the list cannot be read.
        """
        self.changed.clear()
        if not self._stale:
            return False
        self._watch_folder()
        data = read_list(self._path)
        if data is None and not self._inline:
            raise UnknownError(f"no baseline: run monitorctl baseline learn {self._check}")
        self._stale = False
        listing = baseline.parse(data or b"", self._path.name, self._entry)
        self._tell(listing)
        before, self.entries = self.entries, self._inline + listing.entries
        return self.entries != before

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def _tell(self, listing: Listing[E]) -> None:
        for problem in listing.problems[:20]:
            log.warning("%s: a line of the baseline is left out: %s", self._check, problem)
        first = listing.problems[0] if listing.problems else ""
        count = len(listing.problems)
        self._report.note("baseline", first and f"{count} bad lines in the baseline, the first: {first}")

    def _watch_folder(self) -> None:
        """Watch the folder of the lists, or what it will be made in."""
        if self._watch is not None and self._watch.active:
            self._watch.cancel()
        folder = self._path.parent
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        try:
            self._watch = self._host.inotify.watch(folder, _EVENTS, self._folder_changed)
        except OSError as error:
            log.error("%s is not watched, a changed list counts from the next start: %s", folder, error)

    def _folder_changed(self, event: inotify.Event) -> None:
        if event.name in (self._path.name, f"{self._path.name}.sig", "baseline.d", "mender-monitor", ""):
            self._stale = True
            self.changed.set()
