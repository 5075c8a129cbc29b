"""What the commands on a list share: the check it belongs to, its bytes, and what the device has."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

from mender_monitor_py import baseline
from mender_monitor_py.baseline import Listing
from mender_monitor_py.ctl.checks import named, open_catalog
from mender_monitor_py.ctl.text import without_long_hashes
from mender_monitor_py.errors import BaselineError
from mender_monitor_py.host import signedlists
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.durable import replace_file
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.lists import read_list
from mender_monitor_py.listtrust import Signed, distrust
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.expected import Baselined, Thing, list_path

_REDRAW_S = 0.1


@dataclass(frozen=True)
class Changed:
    """A thing that is other than its entries expect: their rows, its own, and what differs."""

    subject: str
    expected: list[str]
    found: str
    differences: list[str]


@dataclass(frozen=True)
class Differences:
    """How a device differs from a list, as rows of it."""

    unexpected: list[str]
    missing: list[str]
    changed: list[Changed]

    @property
    def any(self) -> bool:
        return bool(self.unexpected or self.missing or self.changed)

    def parts(self) -> Iterator[tuple[str, list[str]]]:
        """Headings with the lines below them, for a person."""
        if self.changed:
            lines = []
            for one in self.changed:
                lines += [one.subject, *(f"    {without_long_hashes(text)}" for text in one.differences)]
            yield "other than expected", lines
        if self.unexpected:
            yield "not expected", [f"+ {row}" for row in self.unexpected]
        if self.missing:
            yield "expected, but not there", [f"- {row}" for row in self.missing]

    def as_json(self) -> dict[str, Any]:
        changed = [asdict(one) for one in self.changed]
        return {"unexpected": self.unexpected, "missing": self.missing, "changed": changed}


class Kept:
    """
    The list of *check*.

    Every method raises MonitorError when the list or the device cannot be read.
    """

    def __init__(self, check: Baselined[Any, Any], paths: Paths) -> None:
        self.check = check
        self.paths = paths
        self.path = list_path(paths, check.id)
        self.host = Host(paths, Clock())
        self.data = read_list(self.path)
        self.keys = signedlists.read_keys(paths)
        self._copy = signedlists.read_copy(paths, self.path.name)

    @classmethod
    def of(cls, subsystem: str, name: str) -> Self:
        """The list of the check that a user calls so."""
        catalog = open_catalog()
        check = catalog.build(catalog.load_now(named(subsystem, name)))
        if not isinstance(check, Baselined):
            raise BaselineError(f"checks of the subsystem {subsystem} have no list")
        return cls(check, Paths.from_environment())

    @property
    def rows(self) -> list[str]:
        """The entries of the list, as they are written."""
        return [row for row, _ in self._entries()]

    @property
    def trusted_serial(self) -> int:
        """The serial of the list that was trusted last; 0: none was."""
        return Signed(self._copy.data, valid=True).listing.serial if self._copy else 0

    @property
    def to_be_signed(self) -> str:
        return "; it counts once it is signed" if self.keys else ""

    def listing(self) -> Listing[Any]:
        """What the list says."""
        if self.data is None:
            raise BaselineError(f"there is no {self.path}: run monitorctl baseline learn {self.check.id}")
        return baseline.parse(self.data, self.path.name, self._entry)

    def write(self, data: bytes) -> None:
        """Put *data* in the place of the list; a power cut leaves the one or the other."""
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(self.path, data)
        except OSError as error:
            advice = "; run it as root" if isinstance(error, PermissionError) else ""
            raise BaselineError(f"{self.path} cannot be written: {error.strerror}{advice}") from error

    # Signatures

    @cached_property
    def _signers(self) -> tuple[str, str]:
        """Who signed the list, and the copy of the one that was trusted last; empty texts for nobody."""
        from mender_monitor_py.signature import Keys

        keys = Keys(self.keys)
        signature = signedlists.read_signature(self.path)
        copy = self._copy
        return (
            keys.signer(signature, self.data) if self.data is not None else "",
            keys.signer(copy.signature, copy.data) if copy is not None else "",
        )

    @property
    def signer(self) -> str:
        """The file name of the key that the list is signed with."""
        return self._signers[0]

    def trust(self) -> str:
        """Why the list does not count; empty: it does, or this device has no key."""
        if not self.keys:
            return ""
        found = Signed(self.data, bool(self.signer)) if self.data is not None else None
        copy = Signed(self._copy.data, valid=True) if self._copy is not None and self._signers[1] else None
        has_signature = bool(signedlists.read_signature(self.path))
        return distrust(str(self.check.id), found, has_signature, copy)

    # What the device has

    def survey(self, subject: str = "") -> list[Thing]:
        """What there is now; of *subject* alone, if that is given and less work."""

        async def look() -> list[Thing]:
            try:
                if subject:
                    return await self.check.survey_of(self.host, subject)
                return await self.check.survey(self.host)
            finally:
                await self.host.aclose()

        return asyncio.run(look())

    def differences(self) -> Differences:
        """How the device differs from the list and from what the check file adds to it."""
        entries = self._entries()
        allowing = [*(entry for _, entry in entries), *map(self.check.led, self.check.inline)]
        by_subject: dict[str, list[Any]] = {}
        for entry in allowing:
            by_subject.setdefault(self.check.subject(entry), []).append(entry)
        anywhere = self.check.candidates(by_subject.pop("", []))
        things = self.survey()
        subjects = [self.check.subject(self._parsed(thing.row)) for thing in things]
        used: set[int] = set()
        unexpected: list[str] = []
        changed: list[Changed] = []
        for thing, subject in zip(things, subjects, strict=True):
            about = by_subject.get(subject, [])
            fitting = [entry for entry in (*about, *anywhere(thing)) if self.check.allows(entry, thing)]
            used.update(map(id, fitting or about))
            if not fitting and about:
                rows = [row for row, entry in entries if entry in about]
                differing = min((self.check.differences(entry, thing) for entry in about), key=len)
                changed.append(Changed(subject, rows, thing.row, differing))
            elif not fitting:
                unexpected.append(thing.row)
        missing = [row for row, entry in entries if id(entry) not in used]
        return Differences(sorted(set(unexpected)), missing, changed)

    def row_of(self, words: Sequence[str]) -> str:
        """The entry that a user means by *words*: itself, or for a path alone the file as it is now."""
        if len(words) == 1 and self._by_path and baseline.Glob(words[0]).literal is not None:
            subject = baseline.quote(baseline.unquote(words[0]))
            rows = [thing.row for thing in self.survey(subject)]
            found = next((row for row in rows if self.check.subject(self._parsed(row)) == subject), None)
            if found is None:
                raise BaselineError(f"{words[0]} is nothing now that {self.check.id} looks for")
            return found
        row = " ".join(words)
        self._parsed(row)
        return row

    def replaced_by(self, row: str) -> Callable[[str], bool]:
        """Whether an entry of the list is about the same as *row*."""
        subject = self.check.subject(self._parsed(row))
        return lambda other: bool(subject) and self.subject_of(other) == subject

    def subject_of(self, row: str) -> str:
        """What an entry is about, if only one should be; empty: nothing like that, or it is no entry."""
        try:
            return self.check.subject(self.check.entry(row.split()))
        except ValueError:
            return ""

    def about(self, entries: Iterable[Any]) -> Callable[[Thing], list[Any]]:
        """Gives those of *entries* that a thing is to be compared with."""
        by_subject: dict[str, list[Any]] = {}
        for entry in entries:
            by_subject.setdefault(self.check.subject(entry), []).append(entry)
        anywhere = self.check.candidates(by_subject.pop("", []))
        return lambda thing: [*by_subject.get(self.subject_of(thing.row), ()), *anywhere(thing)]

    @property
    def _by_path(self) -> bool:
        """Whether an entry is about one path."""
        return type(self.check).subject is not Baselined.subject

    def _parsed(self, row: str) -> Any:
        try:
            return self.check.entry(row.split())
        except ValueError as error:
            raise BaselineError(f"{row[:200]!r} is no entry: {error}") from error

    def _entry(self, fields: Sequence[str]) -> Any:
        return self.check.led(self.check.entry(fields))

    def _entries(self) -> list[tuple[str, Any]]:
        """The rows of the list that can be used, with what they mean."""
        found = []
        for row in baseline.rows_of(self.data or b""):
            try:
                found.append((row, self._entry(row.split())))
            except ValueError:
                continue  # the daemon warns of it, and show names it
        return found


@contextmanager
def progress(host: Host) -> Iterator[None]:
    """Show how far a long look has come, where somebody sits before a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    drawn = 0.0

    def draw(done: int, all_of_them: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= _REDRAW_S or done == all_of_them:
            drawn = now
            share = f"{done:,} of {all_of_them:,} files" if all_of_them else f"{done:,} files"
            sys.stderr.write(f"\r\033[K{share}")
            sys.stderr.flush()

    host.scanner.progress = draw
    try:
        yield
    finally:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()
