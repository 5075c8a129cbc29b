"""
Root logins over ssh, by sudo, by su and on the console, and attempts at them.

They are read from the journal, where the fields of journald say who wrote a message, or from the file that
syslog writes on devices without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mender_monitor_py import loginallow, loginevents
from mender_monitor_py.baseline import inline
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.host import Host
from mender_monitor_py.loginallow import Entry
from mender_monitor_py.loginevents import METHODS, SSH, Connections, Login
from mender_monitor_py.loginsources import HOLD_S, Message, Records
from mender_monitor_py.model import Observation
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.fields import choices, count, interval
from mender_monitor_py.subsystems.findings import SUMMARY, Findings
from mender_monitor_py.subsystems.loginfindings import ACCEPTED, REFUSED, Tallies, finding, observation
from mender_monitor_py.subsystems.loginmessages import JOURNAL, Source, source_of

SUCCESS, FAILURE = "success", "failure"
# What counts as one look, for LOGIN_MAX_ALERTS. Refusals come from anywhere, for hours; what succeeds must
# not get lost among them.
_PERIOD_S = {ACCEPTED: 60.0, REFUSED: 3600.0}
_SUMMARY_S = 60.0  # from one summary of refusals to the next
_UNKNOWN_S = 2.0
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
_MAX_ALERTS = Field(
    "LOGIN_MAX_ALERTS",
    count,
    "new findings in a minute (refused: in an hour) with an alert each",
    default="20",
)


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
        source = source_of(self._place, host, report)
        watch = _Watch(self, host, report, source)
        try:
            await source.open()
            try:
                await watch.run()
            finally:
                watch.finish()
        finally:
            await source.close()


class _Watch:
    """One run of the check."""

    def __init__(self, check: LoginCheck, host: Host, report: Report, source: Source) -> None:
        self._check = check
        self._procfs = host.procfs
        self._report = report
        self._source = source
        self._level = check.settings.default_alert_level
        self._findings = {
            ACCEPTED: self._sharing("Many logins", SUMMARY),
            REFUSED: self._sharing("Many refused logins", f"{SUMMARY} refused"),
        }
        self._look_at = dict.fromkeys(self._findings, 0.0)
        self._summary_at = 0.0
        self._connections = Connections()
        self._tallies = Tallies()
        self._records = Records()
        self._told = report.memory  # the place up to which all is told
        self._loop = asyncio.get_running_loop()
        self._known = False
        self._ending = False

    def _sharing(self, name: str, key: str) -> Findings:
        check = self._check
        about = (check.max_alerts, name, check.id.name, self._level)
        return Findings(self._report, *about, events=True, members=(), key=key)

    async def run(self) -> None:
        """Tell what the source gives, for ever."""
        self._told = self._source.memory
        self._report.remember(self._told)
        if self._source.healthy:
            self._can_look()
        while not self._ending:
            messages = await self._next()
            if self._known:
                await self._begin_looks()
            await self._take(messages)
        await self._loop.create_future()

    def finish(self) -> None:
        """The check ends: what is held is told; what waits for a summary is to be read again."""
        held = self._records.due(float("inf"))
        memory = self._told if self._findings[REFUSED].waiting else self._source.memory
        if not self._ending and self._see(held, memory):
            self._report.remember(memory)

    async def _next(self) -> list[Message]:
        """The next messages; none when it is time for something else."""
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self._patience()):
                messages = await self._source.next()
            self._can_look()
        except TimeoutError:
            if not self._known and self._source.healthy:
                self._can_look()
        except UnknownError as error:
            self._known = False
            self._report.unknown(str(error))
        return messages

    def _patience(self) -> float | None:
        if self._records:
            return HOLD_S
        if not self._known:
            return _UNKNOWN_S
        waits = self._findings[REFUSED].waiting
        return max(self._summary_at - self._loop.time(), 0.0) if waits else None

    async def _begin_looks(self) -> None:
        for status, findings in self._findings.items():
            if self._loop.time() >= self._look_at[status]:
                self._look_at[status] = self._loop.time() + _PERIOD_S[status]
                await findings.look((), "")

    def _can_look(self) -> None:
        if not self._known:
            self._known = True
            self._report.known()

    async def _take(self, messages: Iterable[Message]) -> None:
        now = self._loop.time()
        whole = [message for one in messages for message in self._records.take(one, now)]
        whole += self._records.due(now)
        if not self._records and not self._findings[REFUSED].waiting:
            self._told = self._source.memory
        if self._see(whole, self._told) and await self._summarise(now):
            self._report.remember(self._told)
        else:
            self._ending = True

    async def _summarise(self, now: float) -> bool:
        """Tell those that were too many; False as :meth:`_see` has it."""
        due = [findings for findings in self._findings.values() if findings.waiting]
        if now < self._summary_at and self._findings[REFUSED] in due:
            due.remove(self._findings[REFUSED])
        for findings in due:
            if findings is self._findings[REFUSED]:
                self._summary_at = now + _SUMMARY_S
            await findings.summarise(self._told)
        return not due or self._report.memory == self._told

    def _see(self, messages: Iterable[Message], memory: str) -> bool:
        """
        Judge *messages*, which with all before them end at *memory*.

        False: the daemon ends and takes no news any more. The next start is to read them again.
        """
        told = False
        for message in messages:
            found = self._judge(message)
            if found is not None:
                told = self._findings[found.subject.status].see(found, memory) or told
        return not told or self._report.memory == memory

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


CHECK = LoginCheck
