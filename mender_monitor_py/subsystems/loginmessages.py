"""Where the messages about logins come from: the journal, or the file that syslog writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mender_monitor_py import loginsources
from mender_monitor_py.commandline import printable
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import journal
from mender_monitor_py.host.follow import end_of
from mender_monitor_py.host.host import Host
from mender_monitor_py.loginsources import Message
from mender_monitor_py.subsystems.base import Report

JOURNAL = "journal"
_PLACES = tuple(f"{folder}/" for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"))
_FILES = ("/var/log/auth.log", "/var/log/secure", "/var/log/messages")


class Source(Protocol):
    """Where messages come from."""

    async def open(self) -> None:
        """Find where to begin. Raises UnknownError."""

    async def next(self) -> list[Message]:
        """The next ones, maybe none. Raises UnknownError when it cannot be read; it may be tried again."""

    @property
    def healthy(self) -> bool:
        """Whether there would be messages if there were any."""

    @property
    def memory(self) -> str:
        """The place behind the last message that was given."""

    def not_proven(self) -> None:
        """A message did not count, since another program may have sent it."""

    async def close(self) -> None: ...


def source_of(place: str, host: Host, report: Report) -> Source:
    """
    What LOGIN_SOURCE names: *place*. Where there is no journal, the file that there is in its place.

    Raises UnknownError when there is neither.
    """
    if place != JOURNAL:
        return _File(host, report, Path(place))
    if journal.is_kept():
        return _Journal(report)
    files = [path for path in map(Path, _FILES) if path.is_file()]
    if not files:
        raise UnknownError(f"this device has no journal, and none of {', '.join(_FILES)}")
    return _File(host, report, files[0])


class _Journal:
    """The journal."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._forged = 0
        self._suppressed = ""
        self._journal = journal.Journal(
            loginsources.matches(_executables(loginsources.set_uid_names())),
            loginsources.FIELDS,
            _cursor(report.memory),
        )

    async def open(self) -> None:
        await self._journal.open()

    async def next(self) -> list[Message]:
        messages = []
        for line in await self._journal.next():
            entry = loginsources.entry(line)
            if entry is None or not self._journal.taken(entry.cursor):
                continue
            self._forged += entry.forged
            self._suppressed = entry.suppressed or self._suppressed
            if entry.message is not None:
                messages.append(entry.message)
        self._note()
        return messages

    def not_proven(self) -> None:
        self._forged += 1
        self._note()

    @property
    def healthy(self) -> bool:
        return self._journal.healthy

    @property
    def memory(self) -> str:
        return json.dumps({"cursor": self._journal.cursor})

    async def close(self) -> None:
        await self._journal.close()

    def _note(self) -> None:
        if self._forged:
            text = f"{self._forged} messages in the name of sshd, sudo, su or login, by others, did not count"
            self._report.note("forged", text)
        if self._suppressed:
            text = f"logins may be missing: journald says: {printable(self._suppressed)}"
            self._report.note("suppressed", text)
        if self._journal.too_long:
            self._report.note(
                "long", f"{self._journal.too_long} entries of the journal were too long to read"
            )


class _File:
    """The file that syslog writes."""

    def __init__(self, host: Host, report: Report, path: Path) -> None:
        self._path = path
        memory = report.memory
        if json.dumps(str(path)) not in memory:  # a new check, or of another source
            memory = end_of(path)
        self._stream = host.files.follow(path, memory)
        if not path.is_file():
            report.unknown(f"{path} is not there")
        report.note("source", f"{path} is read, where local users can forge lines")

    async def open(self) -> None:
        if self._stream.problem:
            raise UnknownError(self._stream.problem)

    async def next(self) -> list[Message]:
        block = await self._stream.next()
        if block is None:
            if self._stream.problem:
                raise UnknownError(self._stream.problem)
            return []
        found = map(loginsources.line, block.data.split(b"\n"))
        return [message for message in found if message is not None]

    def not_proven(self) -> None:
        """Never: nothing in a file is."""

    @property
    def healthy(self) -> bool:
        return not self._stream.problem and self._path.is_file()

    @property
    def memory(self) -> str:
        return self._stream.memory

    async def close(self) -> None:
        self._stream.close()


def _executables(names: Iterable[str]) -> list[str]:
    """The files behind the commands *names*, as /proc shows them."""
    paths = {os.path.realpath(place + name) for place in _PLACES for name in names}
    return sorted(path for path in paths if Path(path).is_file())


def _cursor(memory: str) -> str:
    with suppress(ValueError, TypeError, KeyError):
        found = json.loads(memory or "{}").get("cursor", "")
        return found if isinstance(found, str) else ""
    return ""
