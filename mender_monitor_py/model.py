"""Values that cross the layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

OK = "OK"
CRITICAL = "CRITICAL"


@dataclass(frozen=True, slots=True, order=True)
class CheckId:
    """A check's identity: its file is ``<subsystem>_<name>.sh``."""

    subsystem: str
    name: str

    @classmethod
    def from_file_name(cls, file_name: str) -> Self | None:
        """The identity that a file name gives: split at the first underscore. None: not a check file."""
        stem, dot, suffix = file_name.rpartition(".")
        subsystem, underscore, name = stem.partition("_")
        if not (dot and suffix == "sh" and subsystem and underscore and name):
            return None
        return cls(subsystem, name)

    @property
    def file_name(self) -> str:
        return f"{self.subsystem}_{self.name}.sh"

    def __str__(self) -> str:
        return f"{self.subsystem} {self.name}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """
    A moment on both clocks.

    *boottime* is CLOCK_BOOTTIME in seconds and means something within *boot_id* only
    (/proc/sys/kernel/random/boot_id, see proc(5)); *wall* is seconds since the epoch; *known* tells
    whether the wall clock had been set by then.
    """

    boot_id: str
    boottime: float
    wall: float
    known: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log, numbered from 1 within its alert or its file."""

    number: int
    data: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What an alert is about; the server knows an alert by its name and its subject."""

    name: str
    type: str
    status: str


@dataclass(frozen=True, slots=True)
class Details:
    """What a person needs to judge an alert."""

    description: str = ""
    lines_before: tuple[Line, ...] = ()
    line_matching: Line | None = None
    lines_after: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of state, as the server is told it."""

    name: str
    level: str
    subject: Subject
    details: Details = field(default_factory=Details)


@dataclass(frozen=True, slots=True)
class Observation:
    """
    What a check saw of one thing.

    A *level* of OK means good; any other is bad. A check over a set gives each of its findings a
    *key* of its own; a check of one thing leaves it empty. An *event* (a log line, a signal, a login)
    has no natural end: it is over when the check's expiration has passed without another. The alert's
    *name* and *subject* are the same in both states; *cleared* is the description of the OK that an
    expiration sends and *cleared_status* its status.
    """

    level: str
    name: str
    subject: Subject
    details: Details = field(default_factory=Details)
    key: str = ""
    event: bool = False
    cleared: str = ""
    cleared_status: str = ""
    flapping_name: str = ""

    @property
    def bad(self) -> bool:
        return self.level != OK

    def alert(self) -> Alert:
        return Alert(self.name, self.level, self.subject, self.details)

    def without_lines(self) -> Observation:
        """The same, small enough to be kept."""
        return replace(self, details=Details(self.details.description))
