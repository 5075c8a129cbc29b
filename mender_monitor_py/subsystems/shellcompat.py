"""
A user's own ``monitor.d/<subsystem>.sh``, run by bash for each of its checks.

The script decides when it alerts, by ``monitor_send_alert``, and each of its alerts is sent. The level of the
last one of a name and subject is what the status shows.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from pathlib import Path

from mender_monitor_py import alertcall
from mender_monitor_py.errors import DefinitionError, OutboxError, UnknownError
from mender_monitor_py.host import sysvinit, trusted
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.shellchecks import Job
from mender_monitor_py.model import Alert, Observation
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Report

log = logging.getLogger(__name__)

# What the shell library's log functions begin their lines with.
_LEVELS = {
    b"TRACE": logging.DEBUG,
    b"DEBUG": logging.DEBUG,
    b"INFO": logging.INFO,
    b"WARN": logging.WARNING,
    b"ERROR": logging.ERROR,
    b"FATAL": logging.CRITICAL,
}
_MAX_LINES, _MAX_LENGTH = 20, 1000  # of one look at the output, which comes once a second at most
_MAX_HEARD = 50  # lines
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class ShellCheck(Check):
    """A check of a user's own subsystem."""

    subsystem = ""
    summary = "a shell script of your own in monitor.d"
    fields = ()

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self._file = Path(definition.file)

    async def run(self, host: Host, report: Report) -> None:
        folder = host.paths.checks(self.settings.monitor_d_directory)
        script = folder / f"{self.id.subsystem}.sh"
        try:
            trusted.require(script)
        except DefinitionError as error:
            raise UnknownError(str(error)) from error
        job = Job(
            self.id.subsystem,
            self._file,
            script,
            self.settings.shell_subsystem_interval,
            self.settings.shell_subsystem_timeout,
        )
        await host.shells.run(job, _Runs(self, job, host, report))


class _Runs:
    """What the runs of one check tell, passed on; see host.shellchecks.Listener."""

    def __init__(self, check: ShellCheck, job: Job, host: Host, report: Report) -> None:
        self._check = check.id
        self._job = job
        self._host = host
        self._report = report
        self._heard: deque[bytes] = deque(maxlen=_MAX_HEARD)

    def printed(self, output: bytes) -> None:
        lines = output.splitlines()
        for line in lines[:_MAX_LINES]:
            self._log(line[:_MAX_LENGTH])
        if len(lines) > _MAX_LINES:
            log.warning("%s: %d more lines of output", self._check, len(lines) - _MAX_LINES)

    def _log(self, line: bytes) -> None:
        word, _, text = line.partition(b" ")
        if word in _LEVELS:
            log.log(_LEVELS[word], "%s: %s", self._check, _readable(text))
        # What was not meant for the log, and says the same at each run, is heard once.
        elif line not in self._heard:
            self._heard.append(line)
            log.info("%s: %s", self._check, _readable(line))

    async def alerted(self, call: bytes) -> bool:
        if await _shutting_down(self._host):
            # What ends with the machine is no alert. The script gets no answer, so that it does not go on and
            # write down that it has told: it has not.
            await asyncio.Event().wait()
        try:
            await self._report.tell(_observation(alertcall.parse(call)))
        except (ValueError, OutboxError) as error:
            log.error("%s: monitor_send_alert: %s", self._check, error)
            return False
        return True

    def ran(self) -> None:
        self._report.known()

    def overdue(self) -> None:
        self._report.unknown(f"{self._job.script} ran for {self._job.limit:g} s and was ended")


async def _shutting_down(host: Host) -> bool:
    if not sysvinit.is_systemd():
        return sysvinit.shutting_down()
    try:
        return await host.systemd.shutting_down()
    except UnknownError:
        return False


def _observation(alert: Alert) -> Observation:
    key = f"{alert.name}\n{alert.subject.name}\n{alert.subject.type}"
    return Observation(alert.level, alert.name, alert.subject, alert.details, key=key)


def _readable(line: bytes) -> str:
    text = line.decode(errors="backslashreplace")
    return _UNPRINTABLE.sub(lambda character: f"\\x{ord(character[0]):02x}", text)


CHECK = ShellCheck
