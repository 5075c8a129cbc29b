"""
What a vulnerability scanner finds on this device: its findings as alerts, by a schedule.

The scanner is whatever VULNSCAN_COMMAND says. It runs outside the watcher, in a process that limits it and
reads its report: host/vulnscans.py. What is kept from scan to scan is which findings there were, so that only
new ones are told, and when the last scan was, so that a device that was off catches up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mender_monitor_py import scanschedule, vulntexts
from mender_monitor_py.duration import seconds
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import inotify, vulnscans
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.timer import Alarm, ClockStep
from mender_monitor_py.host.vulnscans import Request, Result
from mender_monitor_py.model import OK, Details, Observation, Stamp, Subject
from mender_monitor_py.paths import Paths
from mender_monitor_py.scanschedule import Past, Plan, Schedule
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.fields import absolute_path, choice, count, interval, size, yes_no
from mender_monitor_py.subsystems.findings import Findings
from mender_monitor_py.subsystems.vulnscanmemory import Memory
from mender_monitor_py.updateprogress import Change, Outcome
from mender_monitor_py.vulnerability import Ignored, Vulnerability, ignored

log = logging.getLogger(__name__)

FORMATS = ("debsecan", "lynis", "trivy", "grype", "osv", "sarif", "lines")
FAILED = "+failed"
_FAILURES = 2  # in a row: one may be a network that is away for a moment
_COMMANDS = {
    "debsecan": '. /etc/os-release && debsecan --suite "$VERSION_CODENAME" --only-fixed --format detail',
    "lynis": "lynis audit system --cronjob --no-log",
}
_LYNIS_REPORT = "/var/log/lynis-report.dat"
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_GONE = "The scanner does not find it any more, or it is ignored now"


def _command(text: str) -> str:
    if "\0" in text:
        raise ValueError("a command holds no NUL")
    return text


def _pattern(text: str) -> str:
    vulntexts.pattern(text)
    return text


_COMMAND = Field(
    "VULNSCAN_COMMAND",
    _command,
    "the scanner, as root's shell runs it; debsecan and lynis need none",
    argument="COMMAND",
)
_FORMAT = Field("VULNSCAN_FORMAT", choice(*FORMATS), ", ".join(FORMATS), required=True, argument="FORMAT")
_REPORT = Field("VULNSCAN_REPORT", absolute_path, f"a file that the scanner writes; of lynis {_LYNIS_REPORT}")
_PATTERN = Field("VULNSCAN_PATTERN", _pattern, "of lines: a regular expression, maybe with groups")
_SCHEDULE = Field(
    "VULNSCAN_SCHEDULE", scanschedule.parse, "as daily, Sun 03:00 (systemd.time(7)), or 1d", "1d"
)
_SPLAY = Field("VULNSCAN_SPLAY", seconds, "a delay up to this, each device its own", default="1h")
_SEVERITY = Field(
    "VULNSCAN_SEVERITY",
    choice("negligible", "low", "medium", "high", "critical"),
    "from this on it alerts",
    "high",
)
_UNRATED = Field("VULNSCAN_UNRATED", yes_no, "yes: what has no severity alerts, too", default="yes")
_IGNORE = Field(
    "VULNSCAN_IGNORE", ignored, "IDs or globs, ID@PACKAGE, each maybe with until=2026-12-31 behind it"
)
_TIMEOUT = Field("VULNSCAN_TIMEOUT", interval, "how long a scan may take", default="1h")
_MEMORY = Field("VULNSCAN_MEMORY", size, "how much memory it may take", default="512M")
_MAX_ALERTS = Field("VULNSCAN_MAX_ALERTS", count, "new findings in one scan with an alert each", default="20")


class VulnscanCheck(Check):
    """A vulnerability scanner finds something, or does not work twice in a row."""

    subsystem = "vulnscan"
    summary = "what a vulnerability scanner finds, by a schedule"
    fields = (
        _FORMAT, _COMMAND, _REPORT, _PATTERN, _SCHEDULE, _SPLAY, _SEVERITY, _UNRATED, _IGNORE, _TIMEOUT,
        _MEMORY, _MAX_ALERTS,
    )  # fmt: skip

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self._format: str = definition.value(_FORMAT)
        self._command: str = definition.value(_COMMAND) or _COMMANDS.get(self._format, "")
        if not self._command:
            raise definition.error(_COMMAND.name, f"is missing: which scanner writes {self._format}?")
        report: str = definition.value(_REPORT)
        self._report = report or (_LYNIS_REPORT if self._format == "lynis" else "")
        self._pattern: str = definition.value(_PATTERN)
        if self._format == "lines" and not self._pattern:
            raise definition.error(_PATTERN.name, "is missing: it says which lines are findings")
        self.schedule: Schedule = definition.value(_SCHEDULE)
        self.splay: int = definition.value(_SPLAY)
        self._severity: str = definition.value(_SEVERITY)
        self._unrated: bool = definition.value(_UNRATED)
        self.ignoring: tuple[Ignored, ...] = definition.value(_IGNORE)
        self._ignore = definition.text(_IGNORE)
        self._timeout: int = definition.value(_TIMEOUT)
        self._memory: int = definition.value(_MEMORY)
        self.max_alerts: int = definition.value(_MAX_ALERTS)

    def request(self, paths: Paths, *, progress: bool = False) -> Request:
        """What the scan process is to do."""
        return Request(
            str(self.id),
            self._command,
            self._format,
            str(vulnscans.lock(paths)),
            self._severity,
            self._unrated,
            self._ignore,
            self._report,
            self._pattern,
            self._timeout,
            self._memory,
            progress=progress,
        )

    @property
    def told(self) -> str:
        """What the findings depend on, besides the device."""
        about = (
            self._command,
            self._format,
            self._report,
            self._pattern,
            self._severity,
            self._unrated,
            self._ignore,
        )
        return f"{scanschedule.fraction(repr(about)):.9f}"

    async def run(self, host: Host, report: Report) -> None:
        with closing(_Watch(self, host, report)) as watch:
            await watch.run()


class _Watch:
    """One run of the check."""

    def __init__(self, check: VulnscanCheck, host: Host, report: Report) -> None:
        self._check = check
        self._host = host
        self._report = report
        self._level = check.settings.default_alert_level
        now = host.clock.now()
        self._memory = Memory.read(report.memory, now)
        self._started = now
        self._asked = now if self._memory.last and self._memory.told != check.told else None
        self._plan = Plan(
            check.schedule, check.splay, scanschedule.fraction(f"{self._identity()} {check.id.name}")
        )
        self._findings = Findings(
            report,
            check.max_alerts,
            "Many vulnerabilities",
            check.id.name,
            self._level,
            members=self._memory.summed,
        )
        self._wake = asyncio.Event()
        self._alarm = Alarm(self._wake.set)
        self._clock_step = ClockStep(self._wake.set)
        self._folder: inotify.Watch | None = None
        self._unlisten = host.updates.listen(self._update_moved, self._see_artifact)

    async def run(self) -> None:
        self._watch_folder()
        self._see_artifact()
        # A device that is on for a short time only gets to its first scan, too.
        self._report.remember(self._memory.text())
        if 0 < self._memory.failed < _FAILURES:
            self._report.unknown("the last scan failed; it is tried again")
        elif self._memory.last is not None:
            self._report.known()
        while True:
            self._wake.clear()
            await self._take_handed_in()
            now = self._host.clock.now()
            wait = self._wait(now)
            if wait is not None and wait <= 0:
                await self._scan()
                continue
            self._note_next(now, wait)
            self._alarm.set(None if wait is None else now.boottime + wait)
            await self._wake.wait()

    def close(self) -> None:
        self._unlisten()
        self._alarm.close()
        self._clock_step.close()
        if self._folder is not None:
            self._folder.cancel()

    # When

    def _update_moved(self, change: Change) -> None:
        if change.outcome is Outcome.COMMITTED:
            self._scan_soon()

    def _see_artifact(self) -> None:
        """A deployment may have come to its end while nobody watched, or faster than anybody could see."""
        updates = self._host.updates
        is_another = updates.artifact and updates.artifact != self._memory.artifact
        if self._memory.last is not None and is_another and not updates.current:
            self._scan_soon()

    def _scan_soon(self) -> None:
        """Something may have changed the device: scan within a few minutes, not all of a fleet at once."""
        if self._asked is None:
            self._asked = self._host.clock.now()
        self._wake.set()

    def _wait(self, now: Stamp) -> float | None:
        past = Past(self._memory.first, self._started, self._memory.last, self._memory.failed)
        passing = [moment for entry in self._check.ignoring if (moment := entry.passes) is not None]
        waits = [self._plan.wait(past, now, passing)]
        if self._asked is not None:
            waits.append(self._plan.soon(self._asked, now))
        return min((wait for wait in waits if wait is not None), default=None)

    def _note_next(self, now: Stamp, wait: float | None) -> None:
        if wait is not None:
            text = f"the next scan is at {_moment(now.wall + wait)}"
        elif now.known:
            text = "VULNSCAN_SCHEDULE names no moment that is to come"
        else:
            text = "the next scan waits for the clock to be set"
        self._report.note("next", text)

    def _identity(self) -> str:
        """What tells this device from all others."""
        for path in _MACHINE_IDS:
            try:
                if found := path.read_text(errors="replace").strip():
                    return found
            except OSError:
                continue
        self._memory.seed = self._memory.seed or os.urandom(8).hex()
        return self._memory.seed

    # A scan

    async def _scan(self) -> None:
        self._report.note("next", "a scan runs now")
        # What asks for a scan from now on, this one may not have seen.
        self._asked = None
        self._memory.artifact = self._host.updates.artifact or self._memory.artifact
        request = self._check.request(self._host.paths)
        scan = asyncio.ensure_future(vulnscans.scan(self._host.runner, request))
        scan.add_done_callback(lambda _: self._wake.set())
        try:
            while not scan.done():
                await self._wake.wait()
                self._wake.clear()
                await self._take_handed_in()
            await self._judge(scan.result())
        except UnknownError as error:
            await self._judge(Result(failed=str(error)))
        finally:
            scan.cancel()
            await asyncio.wait([scan])

    async def _take_handed_in(self) -> None:
        """What somebody found who scanned by hand."""
        try:
            result = vulnscans.handed_in(self._host.paths, self._check.id)
        except UnknownError as error:
            log.error("%s: %s", self._check.id, error)
            return
        if result is not None:
            begun = self._host.clock.boottime() - result.seconds
            if self._asked is not None and self._asked.boottime < begun:
                self._asked = None
            await self._judge(result)

    async def _judge(self, result: Result) -> None:
        now = self._host.clock.now()
        self._memory.last, self._memory.told = now, self._check.told
        if result.failed:
            self._fail(result, now)
        else:
            await self._succeed(result, now)
        self._report.remember(self._memory.text())

    def _fail(self, result: Result, now: Stamp) -> None:
        self._memory.failed += 1
        log.warning("%s: the scan failed: %s", self._check.id, result.failed)
        self._report.note("last", f"the scan of {_moment(now.wall)} failed: {result.failed}")
        if self._memory.failed < _FAILURES:
            self._report.unknown(f"the scan failed: {result.failed}; it is tried again")
            return
        said = ["", "its last words:", *result.said] if result.said else []
        text = [f"{self._memory.failed} times in a row, at last: {result.failed}", *said]
        self._report.observe(self._failure(self._level, "\n".join(text)))

    def _failure(self, level: str, text: str) -> Observation:
        name = self._check.id.name
        status = "failed" if level != OK else "works"
        return Observation(
            level,
            f"Vulnerability scan {name} failed",
            Subject(name, "vulnscan", status),
            Details(text),
            key=FAILED,
        )

    async def _succeed(self, result: Result, now: Stamp) -> None:
        self._memory.failed = 0
        counts = f"{result.total} findings, {result.below} below the severity, {result.ignored} ignored"
        log.info("%s: a scan took %.0f s: %s", self._check.id, result.seconds, counts)
        took = f"{result.seconds:.0f} s and {result.memory / 2**20:.0f} MiB"
        self._report.note("last", f"the scan of {_moment(now.wall)} took {took}: {counts}")
        self._note_limits(result, now)
        if self._report.is_bad(FAILED):
            self._report.observe(self._failure(OK, "The scanner works again"))
        self._renew(result.found)
        found = map(self._observation, result.found)
        versions = {one.key: one.version for one in result.found}
        if result.total > len(result.found):
            # What is not among the gravest may still be there.
            for seen in found:
                self._findings.see(seen)
            await self._findings.summarise()
            self._report.known()
            self._memory.versions |= versions
        else:
            await self._findings.look(found, _GONE)
            self._memory.versions = versions
        self._memory.summed = sorted(self._findings.members)

    def _renew(self, found: Sequence[Vulnerability]) -> None:
        """An alert names the version: where the package has another one now, and the flaw still, say so."""
        for one in found:
            if (
                self._report.is_bad(one.key)
                and self._memory.versions.get(one.key, one.version) != one.version
            ):
                self._report.observe(self._observation(one))

    def _observation(self, one: Vulnerability) -> Observation:
        return Observation(
            self._level,
            one.name,
            Subject(one.key, "vulnerability", one.severity),
            Details("\n".join([*one.lines(), f"scanner: {self._check.id.name}"])),
            key=one.key,
            cleared_status="gone",
        )

    def _note_limits(self, result: Result, now: Stamp) -> None:
        more = f"of {result.total} findings only the {len(result.found)} gravest were looked at"
        self._report.note("many", more if result.total > len(result.found) else "")
        over = [
            entry
            for entry in self._check.ignoring
            if (moment := entry.passes) is not None and moment <= now.wall
        ]
        names = ", ".join(f"{entry.id} (until {entry.until})" for entry in over)
        self._report.note("ignored", f"not ignored any more: {names}" if over else "")

    # Results of scans that somebody ran by hand

    def _watch_folder(self) -> None:
        place = vulnscans.folder(self._host.paths)
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = self._host.inotify.watch(place, inotify.IN_MOVED_TO, self._handed_in)
        except OSError as error:
            log.error("%s is not watched, results of monitorctl scan do not count: %s", place, error)

    def _handed_in(self, _: inotify.Event) -> None:
        self._wake.set()


def _moment(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(wall))


CHECK = VulnscanCheck
