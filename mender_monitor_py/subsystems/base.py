"""What a subsystem is: the fields of its check files, and what watches the machine for one check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CheckId, Observation
from mender_monitor_py.settings import Settings

if TYPE_CHECKING:  # the commands of the CLI do without
    import asyncio


@dataclass(frozen=True, slots=True)
class Field:
    """
    One variable of a check file.

    *parse* turns its text into a value and raises ValueError with a reason for the user. *argument* is
    the word for it in ``create``'s usage, in the order of the fields; a field without one is set by
    ``NAME=value``. The one called ``NAME`` takes the check's own name.
    """

    name: str
    parse: Callable[[str], Any]
    help: str
    default: str = ""
    required: bool = False
    argument: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Definition:
    """A check file that was read: every variable in it, the unknown ones too."""

    check: CheckId
    values: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)

    def text(self, wanted: Field) -> str:
        """The text of *wanted*: its own name first, then its aliases, then the default."""
        for name in (wanted.name, *wanted.aliases):
            if self.values.get(name):
                return self.values[name]
        return wanted.default

    def value(self, wanted: Field) -> Any:
        """
        The parsed value of *wanted*.

        Raises DefinitionError, with file, line and key, when it is missing or cannot be used.
        """
        text = self.text(wanted)
        name = next((n for n in (wanted.name, *wanted.aliases) if self.values.get(n)), wanted.name)
        if wanted.required and not text:
            raise self.error(wanted.name, "is missing or empty")
        try:
            return wanted.parse(text)
        except ValueError as error:
            raise self.error(name, str(error)) from error

    def error(self, key: str, reason: str) -> DefinitionError:
        """An error about *key*, that names this file and the line of *key*."""
        return DefinitionError(reason, key=key, file=self.file, line=self.lines.get(key, 0))


class Report(Protocol):
    """What a running check tells; nothing here blocks."""

    def observe(self, observation: Observation, memory: str | None = None) -> None:
        """
        One thing was seen. *memory* is stored in the same transaction as the alert it leads to.
        """

    def gone(self, keep: Collection[str], cleared: str) -> None:
        """Every bad finding whose key is not in *keep* has ended, for the reason *cleared*."""

    async def tell(self, observation: Observation) -> None:
        """
        Send *observation* as an alert as it stands, a repetition or a first OK too: it was judged already.

        Its level becomes the finding's state. The alert is durable on return. Raises OutboxError. While the
        check is :attr:`silent` it is told later, if it is still so.
        """

    def unknown(self, reason: str) -> None:
        """The check cannot look; the state is unknown until the next observation or :meth:`known`."""

    def known(self) -> None:
        """The check can look (again), and has nothing to observe."""

    async def pause(self, seconds: float, wake: asyncio.Event | None = None, *, looked: bool = True) -> bool:
        """
        Wait until the next look: *seconds* at most, or until *wake* is set.

        It ends at once when what was kept back is to be told, because a silence or a hold has ended, and the
        check should look first whether it is over. True: so it is. What is left is told at the next pause
        that comes after a look. Not *looked*: that look goes on still.
        """

    def note(self, topic: str, text: str) -> None:
        """What limits the check, or what it counted: for the status. An empty *text* takes it back."""

    def remember(self, memory: str) -> None:
        """Keep *memory* for the next start: stored with the next alert, at the end, or in a while."""

    @property
    def memory(self) -> str:
        """What was remembered last; empty for a new check."""

    @property
    def silent(self) -> bool:
        """Whether nothing is told for now: somebody silenced the check, or the update client installs."""

    @property
    def stored(self) -> bool:
        """Whether all that was told is on the disk. Else the outbox holds it until it can be written."""

    def is_bad(self, key: str = "") -> bool:
        """Whether the finding *key* is bad at this moment."""

    def is_kept_back(self, key: str = "") -> bool:
        """Whether it is bad and the server was not told so yet: the check is silent, or held."""


class Check(ABC):
    """
    One enabled check.

    A subclass says what it is in class attributes, takes its values from the definition in
    ``__init__`` (raising DefinitionError), and watches in :meth:`run`.
    """

    subsystem: ClassVar[str]
    summary: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    alone: ClassVar[bool] = False  # whether a device has use for one of them only, and a second does not run

    def __init__(self, definition: Definition, settings: Settings) -> None:
        self.id = definition.check
        self.settings = settings

    @property
    def expires_after(self) -> float | None:
        """Seconds after which an event is over; None: never."""
        return None

    @abstractmethod
    async def run(self, host: Host, report: Report) -> None:
        """
        Watch, and report, until cancelled.

        Raises UnknownError when it cannot look: it is started again after a while.
        """


@dataclass(frozen=True)
class Template:
    """A pseudo subsystem: ``create`` makes a check of *subsystem* from its arguments."""

    name: str
    summary: str
    subsystem: str
    arguments: tuple[str, ...]
    optional: tuple[str, ...]
    expand: Callable[[str, tuple[str, ...]], Mapping[str, str]]
