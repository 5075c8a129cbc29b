"""
Root logins over ssh, by sudo, by su and on the console, and attempts at them.

They are read from the journal, where the fields of journald say who wrote a message, or from the file that
syslog writes on devices without one.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mender_monitor_py import loginallow, loginevents, loginsources
from mender_monitor_py.baseline import inline
from mender_monitor_py.commandline import printable
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import journal
from mender_monitor_py.host.follow import end_of
from mender_monitor_py.host.host import Host
from mender_monitor_py.loginallow import Entry
from mender_monitor_py.loginevents import METHODS, SSH, Connections, Login
from mender_monitor_py.loginsources import HOLD_S, Message, Records
from mender_monitor_py.model import Observation
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.fields import choices, count, interval
from mender_monitor_py.subsystems.findings import Findings
from mender_monitor_py.subsystems.loginfindings import Tallies, finding, observation

JOURNAL = "journal"
SUCCESS, FAILURE = "success", "failure"
_PERIOD_S = 60.0  # what counts as one look, for LOGIN_MAX_ALERTS
_UNKNOWN_S = 2.0
_PLACES = tuple(f"{folder}/" for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"))
_FILES = ("/var/log/auth.log", "/var/log/secure", "/var/log/messages")
_ROOT = "root"


def _entries(text: str) -> tuple[Entry, ...]:
    return inline(text, Entry.parse, loginallow.begins_entry)


def _source(text: str) -> str:
    if text != JOURNAL and not text.startswith("/"):
        raise ValueError(f"{text[:40]!r} is neither journal nor an absolute path")
    return text


def _users(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_USER = Field("LOGIN_USER", _users, "whose logins count", default=_ROOT)
_METHODS = Field("LOGIN_METHODS", choices(*METHODS), "ssh, sudo, su, console", default=" ".join(METHODS))
_ON = Field("LOGIN_ON", choices(SUCCESS, FAILURE), "success, failure", default=f"{SUCCESS} {FAILURE}")
_ALLOW = Field(
    "LOGIN_ALLOW", _entries, "what is expected, as ssh root 10.0.0.0/8, sudo admin /usr/bin/systemctl*"
)
_EXPIRATION = Field("LOGIN_EXPIRATION", interval, "a login is over after this", default="1h")
_SOURCE = Field("LOGIN_SOURCE", _source, "journal, or the file that syslog writes", default=JOURNAL)
_MAX_ALERTS = Field("LOGIN_MAX_ALERTS", count, "new findings in a minute with an alert each", default="20")


class LoginCheck(Check):
    """Somebody became one of LOGIN_USER, or tried to, in a way that LOGIN_ALLOW does not expect."""

    subsystem = "login"
    summary = "root logins, and attempts at them"
    fields = (_USER, _METHODS, _ON, _ALLOW, _EXPIRATION, _SOURCE, _MAX_ALERTS)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.users: tuple[str, ...] = definition.value(_USER)
        self.methods: tuple[str, ...] = definition.value(_METHODS)
        self.on: tuple[str, ...] = definition.value(_ON)
        self.allow: tuple[Entry, ...] = definition.value(_ALLOW)
        self.max_alerts: int = definition.value(_MAX_ALERTS)
        self._expiration: int = definition.value(_EXPIRATION)
        self._place: str = definition.value(_SOURCE)

    @property
    def expires_after(self) -> float | None:
        return self._expiration

    async def run(self, host: Host, report: Report) -> None:
        source = self._source(host, report)
        watch = _Watch(self, host, report, source)
        try:
            await source.open()
            try:
                await watch.run()
            finally:
                watch.finish()
        finally:
            await source.close()

    def _source(self, host: Host, report: Report) -> _Source:
        if self._place != JOURNAL:
            return _File(host, report, Path(self._place))
        if journal.is_kept():
            return _Journal(report)
        files = [path for path in map(Path, _FILES) if path.is_file()]
        if not files:
            raise UnknownError(f"this device has no journal, and none of {', '.join(_FILES)}")
        return _File(host, report, files[0])


class _Source(Protocol):
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


class _Watch:
    """One run of the check."""

    def __init__(self, check: LoginCheck, host: Host, report: Report, source: _Source) -> None:
        self._check = check
        self._procfs = host.procfs
        self._report = report
        self._source = source
        self._level = check.settings.default_alert_level
        self._findings = Findings(
            report, check.max_alerts, "Many logins", check.id.name, self._level, events=True
        )
        self._connections = Connections()
        self._tallies = Tallies()
        self._records = Records()
        self._told = report.memory  # the place up to which all is told
        self._loop = asyncio.get_running_loop()
        self._known = False
        self._ending = False

    async def run(self) -> None:
        """Tell what the source gives, for ever."""
        look_at = 0.0
        self._told = self._source.memory
        self._report.remember(self._told)
        if self._source.healthy:
            self._can_look()
        while not self._ending:
            messages = await self._next()
            if self._known and self._loop.time() >= look_at:
                look_at = self._loop.time() + _PERIOD_S
                await self._findings.look((), "")
            await self._take(messages)
        await self._loop.create_future()

    def finish(self) -> None:
        """The check ends: what is held is told."""
        held = self._records.due(float("inf"))
        if not self._ending and self._see(held, self._source.memory):
            self._report.remember(self._source.memory)

    async def _next(self) -> list[Message]:
        """The next messages; none when it is time for something else."""
        timeout = HOLD_S if self._records else None if self._known else _UNKNOWN_S
        messages: list[Message] = []
        try:
            async with asyncio.timeout(timeout):
                messages = await self._source.next()
            self._can_look()
        except TimeoutError:
            if not self._known and self._source.healthy:
                self._can_look()
        except UnknownError as error:
            self._known = False
            self._report.unknown(str(error))
        return messages

    def _can_look(self) -> None:
        if not self._known:
            self._known = True
            self._report.known()

    async def _take(self, messages: Iterable[Message]) -> None:
        now = self._loop.time()
        whole = [message for one in messages for message in self._records.take(one, now)]
        whole += self._records.due(now)
        if not self._records:
            self._told = self._source.memory
        taken = self._see(whole, self._told)
        if taken and self._findings.waiting:
            await self._findings.summarise(self._told)
            taken = self._report.memory == self._told
        if taken:
            self._report.remember(self._told)
        else:
            self._ending = True

    def _see(self, messages: Iterable[Message], memory: str) -> bool:
        """
        Judge *messages*, which with all before them end at *memory*.

        False: the daemon ends and takes no news any more. The next start is to read them again.
        """
        told = False
        for message in messages:
            found = self._judge(message)
            if found is not None:
                self._findings.see(found, memory)
                told = True
        return not told or self._findings.waiting or self._report.memory == memory

    def _judge(self, message: Message) -> Observation | None:
        """The finding that *message* tells of."""
        check = self._check
        if message.method not in check.methods:
            return None
        readings = [
            login
            for reading in loginevents.parse(message.method, message.text)
            if (login := self._connections.judge(reading)) is not None
        ]
        login = next(filter(self._concerns, readings), None)
        if login is None:
            return None
        by = self._caller(login, message)
        if login.accepted and not message.proven:
            self._source.not_proven()
            return None
        if by == _ROOT or (SUCCESS if login.accepted else FAILURE) not in check.on:
            return None
        if login.accepted and loginallow.expected(readings, by, check.allow):
            return None
        found = finding(login, by, invalid=self._is_invalid(login))
        tally = self._tallies.add(found.key, login, message, anew=not self._report.is_bad(found.key))
        return observation(found, login, by, message, tally, self._level)

    def _concerns(self, login: Login) -> bool:
        is_one = login.user in self._check.users or login.user == loginevents.ANYBODY
        return is_one or self._is_invalid(login)

    def _is_invalid(self, login: Login) -> bool:
        """Whether it is the name of no user. sshd says so of those, too, whom it is told to keep out."""
        return login.method == SSH and not login.known and login.user not in self._check.users

    def _caller(self, login: Login, message: Message) -> str:
        """Who called sudo or su: what the kernel says, where that is known and somebody other than root."""
        if login.method not in (loginevents.SUDO, loginevents.SU):
            return ""
        return self._procfs.user(message.uid) if message.uid else login.by


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


CHECK = LoginCheck
