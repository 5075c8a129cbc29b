"""
The family of errors.

    MonitorError                a sentence for the user; never a traceback
    ├── DefinitionError         a check file or a setting says what cannot be
    ├── CatalogError            a check cannot be created, enabled, disabled or deleted
    ├── UnknownError            a check cannot look: its state is unknown, and this is why
    ├── BaselineError           a list of expected things cannot be read, written or signed
    ├── OutboxError             the outbox cannot be opened, read or written
    └── TransportError          the server cannot be reached, or did not answer as it should
"""

from __future__ import annotations


class MonitorError(Exception):
    """What could not be done, where, and what to do about it. The message is for the user."""


class DefinitionError(MonitorError):
    """
    A value in a check file or in the settings cannot be used.

    *file*, *line* (from 1) and *key* say where, as far as they are known.
    """

    def __init__(self, reason: str, *, key: str = "", file: str = "", line: int = 0) -> None:
        self.reason = reason
        self.key = key
        self.file = file
        self.line = line
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (where, self.key, self.reason) if part)


class CatalogError(MonitorError):
    """A check cannot be created, enabled, disabled or deleted."""


class UnknownError(MonitorError):
    """A check cannot look at what it watches. Its state is unknown; nothing is sent on a guess."""


class BaselineError(MonitorError):
    """A list of expected things cannot be read, written, signed or verified."""


class OutboxError(MonitorError):
    """The outbox cannot be opened, read or written."""


class TransportError(MonitorError):
    """The server cannot be reached, or the answer is not one."""
