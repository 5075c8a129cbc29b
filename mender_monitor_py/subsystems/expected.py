"""What a check expects: its baseline and the entries in the check file, read again when the list changes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from mender_monitor_py import baseline
from mender_monitor_py.baseline import Listing
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import inotify
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.base import Check, Report
from mender_monitor_py.subsystems.trust import Pending, Trust

T = TypeVar("T", bound="Thing")
T_contra = TypeVar("T_contra", contravariant=True)
E = TypeVar("E", bound="Entry[Any]")

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


_LEADS_S = 5.0  # from look to look at where links lead to, whatever is found meanwhile


def list_path(paths: Paths, check: CheckId) -> Path:
    """The baseline of *check*."""
    return paths.baseline_d / f"{check.subsystem}_{check.name}.list"


class Thing(Protocol):
    """What a list is about: an open port, a program, a file."""

    @property
    def row(self) -> str:
        """The entry that expects it, as a line of the list."""


class Entry(Protocol[T_contra]):
    """A line of a list."""

    def allows(self, thing: T_contra, /) -> bool:
        """Whether *thing* is what this entry expects."""


class Stated(NamedTuple):
    """
    What the row of a thing says of its file: the SHA-256 (empty: nothing), the mode's bits, and whether it
    has capabilities.
    """

    sha256: str
    mode: int
    capable: bool = False


NOTHING_STATED = Stated("", 0)


class Baselined(Check, Generic[E, T]):
    """A check that compares what there is with a list."""

    inline: tuple[E, ...]
    columns: tuple[str, ...] = ()
    """What the fields of an entry are, for who reads a list; the last one takes what is left of the line."""

    @staticmethod
    @abstractmethod
    def entry(fields: Sequence[str], /) -> E:
        """The entry of a line's fields. Raises ValueError with a reason."""

    @staticmethod
    def led(entry: E, /) -> E:
        """*entry* with what the links in it lead to now."""
        return entry

    @abstractmethod
    async def survey(self, host: Host) -> list[T]:
        """What there is now: the rows of these are the list that would expect it. Raises UnknownError."""

    async def survey_of(self, host: Host, subject: str) -> list[T]:
        """What there is now of *subject*; of all, where looking at one thing is not less work."""
        return await self.survey(host)

    @property
    def follows_deployments(self) -> bool:
        """Whether what a deployment brought may be added to the list: not to one of what must not be."""
        return True

    async def survey_since(self, host: Host, entries: Sequence[E], since: float) -> list[T]:
        """
        What there is now, of *entries* and else, that may be new *since* (seconds since the epoch; 0: ever).

        Raises UnknownError.
        """
        return await self.survey(host)

    @abstractmethod
    def file_of(self, host: Host, thing: T, /) -> str:
        """The file that *thing* is, or comes from: who brought that one brought *thing*. Empty: none."""

    async def expected_running(self, host: Host, entries: Sequence[E], pid: int, path: str) -> bool:
        """
        Whether what *pid* runs was expected by *entries* as long as it was at *path*, where it is no more.

        True where that is no matter of this check. Raises UnknownError and OSError.
        """
        return True

    @staticmethod
    def stated(thing: T, /) -> Stated:
        """What the row of *thing* says of the content of its file."""
        return NOTHING_STATED

    @staticmethod
    def gone(entries: Sequence[E], /) -> list[str]:
        """The paths of *entries* at which nothing is any more, though something should be."""
        return []

    @staticmethod
    def same_again(entry: E, thing: T, /) -> bool:
        """Whether *thing* is what *entry* expects, put there anew, as a rollback does."""
        return False

    @staticmethod
    def order(row: str, /) -> str:
        """What the entries of a list are sorted by."""
        return row

    @staticmethod
    def subject(entry: E, /) -> str:
        """
        What at most one entry of a list should be about: a path. A new one then takes the place of the old.

        Empty where several entries may be about the same.
        """
        return ""

    def allows(self, entry: E, thing: T, /) -> bool:
        """Whether *thing* is what *entry* expects."""
        return entry.allows(thing)

    def candidates(self, entries: Sequence[E]) -> Callable[[T], Iterable[E]]:
        """Gives, for a thing, those of *entries* that may allow it, without a look at all of them."""
        return lambda thing: entries

    def differences(self, entry: E, thing: T, /) -> list[str]:
        """What of *thing* is other than *entry* expects, where both are about the same :meth:`subject`."""
        return []


class Expected(Generic[E]):
    """
    The expected things of *check*: those of its list, and *inline*, those of the check file.

    *changed* is set whenever the list may be another: it is time for :meth:`refresh`.
    """

    def __init__(
        self,
        host: Host,
        report: Report,
        check: Baselined[E, Any],
        inline: tuple[E, ...],
    ) -> None:
        self._host = host
        self._report = report
        self._check = check.id
        self._entry, self._led = check.entry, check.led
        self._led_at = 0.0
        self._inline = inline
        self._path = list_path(host.paths, check.id)
        self._watch: inotify.Watch | None = None
        self._watched: Path | None = None
        self._stale = True
        self._known = False
        level = check.settings.default_alert_level
        self._trust = Trust(host, report, check.id, self._path, level, self._may_differ)
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
        try:
            data = self._trust.in_force()
        except Pending:
            if self._known:  # what was in force stays so
                return False
            raise
        if data is None and not self._inline:
            raise UnknownError(f"no baseline: run monitorctl baseline learn {self._check}")
        self._stale, self._known = False, True
        listing = baseline.parse(data or b"", self._path.name, self._entry)
        self._tell(listing)
        before, self.entries = self.entries, tuple(map(self._led, self._inline + listing.entries))
        self._led_at = time.monotonic()
        return self.entries != before

    def follow_links(self) -> bool:
        """
        Whether links in the entries lead elsewhere by now, as :attr:`entries` has it then.

        For what is about to be a finding; nothing is looked at twice within some seconds.
        """
        if time.monotonic() < self._led_at + _LEADS_S:
            return False
        self._led_at = time.monotonic()
        before, self.entries = self.entries, tuple(map(self._led, self.entries))
        return self.entries != before

    def close(self) -> None:
        self._trust.close()
        if self._watch is not None:
            self._watch.cancel()

    def _tell(self, listing: Listing[E]) -> None:
        for problem in listing.problems[:20]:
            log.warning("%s: a line of the baseline is left out: %s", self._check, problem)
        first = listing.problems[0] if listing.problems else ""
        count = len(listing.problems)
        self._report.note("baseline", first and f"{count} bad lines in the baseline, the first: {first}")

    def _watch_folder(self) -> None:
        """Watch the folder of the lists, or the nearest one above it that is there."""
        self._watched = None
        while (folder := _existing(self._path.parent)) != self._watched:
            if self._watch is not None:
                self._watch.cancel()
            try:
                self._watch = self._host.inotify.watch(folder, _EVENTS, self._folder_changed)
            except OSError as error:
                log.error("%s is not watched, a changed list counts from the next start: %s", folder, error)
                return
            self._watched = folder  # what was made meanwhile is seen by the next turn

    def _folder_changed(self, event: inotify.Event) -> None:
        if event.name.startswith(self._path.name) or not event.name or self._watched != self._path.parent:
            self._may_differ()

    def _may_differ(self) -> None:
        self._stale = True
        self.changed.set()


def _existing(folder: Path) -> Path:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def unread(what: str, example: str) -> None:
    """
    Some of a survey could not be read.

    Raises UnknownError when we are not root: a list without the rest would be taken for whole.
    """
    if os.geteuid() != 0:
        raise UnknownError(f"{what} cannot be read, as {example}; run it as root")
    log.warning("%s cannot be read and are left out, as %s", what, example)


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait until *event* is set, at most *seconds*; whether it is."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
