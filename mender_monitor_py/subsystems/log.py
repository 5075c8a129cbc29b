"""
Lines that match a pattern, in a file or in the output of a command.

Names, status and texts of the alerts are those of the original add-on. The subject's name is that of the
check's file, ``log_NAME``, as in the commands with which its users clear an alert by hand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mender_monitor_py import duration, loglines
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.pattern import Pattern, compile_pattern
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report

log = logging.getLogger(__name__)

_RENEWAL_S = 1.0
_REMEMBER_S = 10.0
_WARN_S = 600.0
_LINE_IN_TEXT = 1_000  # characters of the line that LOG_ALERT_DETAILS may hold


def _source(text: str) -> str:
    if text.startswith("@") and text[1:].strip():
        return text
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is neither an absolute path nor @ and a command")
    return text


def _level(text: str) -> str:
    if not (text.isascii() and text.replace("_", "").isalpha()) or text.upper() == OK:
        raise ValueError(f"{text!r} is not the level of an alert, as CRITICAL is")
    return text.upper()


_SERVICE = Field("SERVICE_NAME", str, "what the log is of", argument="NAME")
_PATTERN = Field(
    "LOG_PATTERN",
    compile_pattern,
    "a pattern as grep -P takes it, else as grep -E does",
    required=True,
    argument="PATTERN",
)
_FILE = Field(
    "LOG_FILE",
    _source,
    "the log's path, or @ and a command that prints it",
    required=True,
    argument="FILE|@COMMAND",
)
_EXPIRATION = Field(
    "LOG_PATTERN_EXPIRATION",
    duration.seconds,
    "after so many seconds without a match all is well again; s, m, h or d may follow the number",
    argument="EXPIRATION",
)
_LEVEL = Field("LOG_ALERT_LEVEL", _level, "the level of the alert")
_DESCRIPTION = Field("LOG_ALERT_DESCRIPTION", str, "the name of the alert")
_DETAILS = Field("LOG_ALERT_DETAILS", str, "the text of the alert; %line_matching stands for the line")
_STATUS = Field("LOG_ALERT_STATUS", str, "the status of the alert's subject", default="LOGCONTAINS")
_TYPE = Field("LOG_ALERT_TYPE", str, "the type of the alert's subject", default="log")


class _Lines(Protocol):
    """Whole lines: logfile.Block or command.Output."""

    @property
    def data(self) -> bytes: ...

    @property
    def cut(self) -> bool: ...

    def before(self, begin: int, count: int) -> list[bytes]: ...

    def after(self, end: int, count: int) -> list[bytes]: ...

    def number(self, begin: int) -> int | None: ...


class _Log(Protocol):
    """Where they come from: stream.Stream or command.CommandStream."""

    @property
    def problem(self) -> str: ...

    @property
    def memory(self) -> str: ...

    async def next(self) -> _Lines | None: ...

    def close(self) -> None: ...


class LogCheck(Check):
    """A line that matches LOG_PATTERN was written."""

    subsystem = "log"
    summary = "a line in a log that matches a pattern"
    fields = (_SERVICE, _PATTERN, _FILE, _EXPIRATION, _LEVEL, _DESCRIPTION, _DETAILS, _STATUS, _TYPE)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self._pattern: Pattern = definition.value(_PATTERN)
        self._told_of = 0
        self._warned_at = 0.0
        self._source: str = definition.value(_FILE)
        self._description = definition.text(_DETAILS)
        expiration = settings.default_log_pattern_expiration_seconds
        if definition.text(_EXPIRATION):
            expiration = definition.value(_EXPIRATION)
        self._expiration: float | None = expiration or None
        level: str = settings.default_log_alert_level
        if definition.text(_LEVEL):
            level = definition.value(_LEVEL)
        text = definition.text(_PATTERN)
        present = f"{text} present in {self._source}"
        self._seen = Observation(
            level=level,
            name=definition.text(_DESCRIPTION) or f"Log file contains {text}",
            subject=Subject(
                f"{self.id.subsystem}_{self.id.name}", definition.text(_TYPE), definition.text(_STATUS)
            ),
            details=Details(present),
            event=True,
            cleared=f"{present}: not seen again for {expiration:g} seconds",
        )

    @property
    def expires_after(self) -> float | None:
        return self._expiration

    async def run(self, host: Host, report: Report) -> None:
        with ExitStack() as stack:
            log_lines = self._open(host, report, stack)
            stack.callback(log_lines.close)
            if not log_lines.problem:
                report.known()
            await self._watch(log_lines, _Teller(report, log_lines))

    def _open(self, host: Host, report: Report, stack: ExitStack) -> _Log:
        if not self._source.startswith("@"):
            return host.files.follow(Path(self._source), report.memory)
        from mender_monitor_py.host.command import CommandStream

        stack.enter_context(host.runner.held())
        return CommandStream(host.runner, self._source[1:], report.memory)

    async def _watch(self, log_lines: _Log, teller: _Teller) -> None:
        try:
            while True:
                lines = await log_lines.next()
                if lines is None:
                    teller.can_look(log_lines.problem)
                    continue
                found = self._pattern.find(lines.data)
                if found is None:
                    teller.read_on()
                elif teller.is_bad:
                    teller.renew(self._seen)
                else:
                    await teller.tell(replace(self._seen, details=self._details(lines, *found)))
                self._warn_of_costly_lines()
        finally:
            teller.finish()

    def _details(self, lines: _Lines, begin: int, end: int) -> Details:
        match = lines.data[begin:end]
        description = self._seen.details.description
        if self._description:
            line = loglines.shown(match)[:_LINE_IN_TEXT]
            description = self._description.replace("%line_matching", line)
        return loglines.details(
            description,
            lines.before(begin, self.settings.default_log_lines_before),
            match,
            lines.after(end, self.settings.default_log_lines_after),
            number=lines.number(begin),
            cut=lines.cut,
        )

    def _warn_of_costly_lines(self) -> None:
        passed_over = self._pattern.gave_up - self._told_of
        if not passed_over:
            return
        now = time.monotonic()
        if not self._told_of or now - self._warned_at >= _WARN_S:
            self._told_of, self._warned_at = self._pattern.gave_up, now
            log.warning("%s: %d lines were passed over, too costly for the pattern", self.id, passed_over)


class _Teller:
    """
    Reports what was seen, and how far the log was read.

    Renewals of an alert that is on are told at most once a second, however many lines match.
    """

    def __init__(self, report: Report, log_lines: _Log) -> None:
        self._report = report
        self._log_lines = log_lines
        self._loop = asyncio.get_running_loop()
        self._renewed_at = -_RENEWAL_S
        self._renewal: tuple[asyncio.TimerHandle, Observation] | None = None
        self._remember_at = self._loop.time() + _REMEMBER_S
        self._ending = False

    @property
    def is_bad(self) -> bool:
        return self._report.is_bad()

    def can_look(self, problem: str) -> None:
        if problem:
            self._report.unknown(problem)
        else:
            self._report.known()

    def read_on(self) -> None:
        """No match so far: remember the position, now and then."""
        now = self._loop.time()
        if now >= self._remember_at:
            self._remember_at = now + _REMEMBER_S
            self._report.remember(self._log_lines.memory)

    async def tell(self, seen: Observation) -> None:
        """An alert, in one transaction with the position behind its line."""
        memory = self._log_lines.memory
        self._report.observe(seen, memory)
        if self._report.memory != memory:
            # The daemon ends and takes no news any more. The next start is to read this line again.
            self._ending = True
            await self._loop.create_future()

    def renew(self, seen: Observation) -> None:
        """The same again: its expiration is counted from now on."""
        if self._renewal is not None:
            return
        now = self._loop.time()
        due = self._renewed_at + _RENEWAL_S
        if now >= due:
            self._renewed_at = now
            self._report.observe(seen)
        else:
            self._renewal = (self._loop.call_at(due, self._renew), seen)

    def finish(self) -> None:
        """The check ends: tell what waits, and remember the position."""
        if self._renewal is not None:
            self._renewal[0].cancel()
            self._renew()
        if not self._ending:
            self._report.remember(self._log_lines.memory)

    def _renew(self) -> None:
        assert self._renewal is not None
        seen = self._renewal[1]
        self._renewal = None
        self._renewed_at = self._loop.time()
        self._report.observe(seen)


CHECK = LogCheck
