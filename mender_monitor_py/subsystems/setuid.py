"""
Executables that give their user more rights than he has, and are not expected.

A scan, by a process of its own at idle priority, at the start and each SETUID_INTERVAL. In between fanotify
tells what was made, moved in or changed on the same file systems; without it inotify does, in the folders
that matter most. An event leads to a look at that file by the same process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from itertools import islice

from mender_monitor_py.baseline import inline, quote, unquote
from mender_monitor_py.commandline import printable
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.mounts import Mount, read_mounts
from mender_monitor_py.host.scanner import MAX_FOUND, Scanned
from mender_monitor_py.model import Details, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.setuidlist import (
    SGID,
    SUID,
    Allowed,
    Entry,
    Found,
    Mounted,
    and_parents,
    barriers,
    begins_entry,
    excluded,
    exclusion,
    is_nosuid,
    walks,
)
from mender_monitor_py.subsystems.base import Definition, Field, Report
from mender_monitor_py.subsystems.expected import Baselined, Expected, Stated, unread
from mender_monitor_py.subsystems.fields import (
    absolute_globs,
    absolute_paths,
    choices,
    count,
    interval,
    yes_no,
)
from mender_monitor_py.subsystems.findings import Findings
from mender_monitor_py.subsystems.pace import Pace
from mender_monitor_py.subsystems.setuidevents import SetuidEvents

log = logging.getLogger(__name__)

RETRY_S = 60.0
_RESCAN_S = 5.0  # from the end of a scan to one that events ask for
_PERIOD_S = 60.0  # in which SETUID_MAX_ALERTS counts
_MAX_PENDING = 5000  # paths to be looked at: more than that is a scan
_MAX_WHO = 1000


def _entries(text: str) -> tuple[Entry, ...]:
    return inline(text, Entry.parse, begins_entry)


_PATHS = Field("SETUID_PATHS", absolute_paths, "where to look", default="/")
_EXCLUDE = Field("SETUID_EXCLUDE", absolute_globs, "what to leave out: folders, files, globs")
_ALLOW = Field("SETUID_ALLOW", _entries, "entries besides the baseline, as /usr/bin/sudo mode:4755")
_BITS = Field(
    "SETUID_BITS", choices("suid", "sgid", "caps"), "suid, sgid, caps: file capabilities", "suid sgid caps"
)
_INTERVAL = Field("SETUID_INTERVAL", interval, "time from scan to scan", default="1h")
_XDEV = Field("SETUID_XDEV", yes_no, "no: file systems mounted below SETUID_PATHS, too", default="yes")
_MAX_ALERTS = Field("SETUID_MAX_ALERTS", count, "new findings in one look with an alert each", default="20")


class SetuidCheck(Baselined[Entry, Found]):
    """A set-uid executable that neither the baseline nor SETUID_ALLOW expects, or not as it is expected."""

    subsystem = "setuid"
    summary = "set-uid executables that are not expected"
    fields = (_PATHS, _EXCLUDE, _ALLOW, _BITS, _INTERVAL, _XDEV, _MAX_ALERTS)
    columns = ("PATH", "CONDITIONS")

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.inline = definition.value(_ALLOW)
        self.interval: float = definition.value(_INTERVAL)
        self.max_alerts: int = definition.value(_MAX_ALERTS)
        self._exclude = exclusion(definition.value(_EXCLUDE))
        self._excluded = re.compile(self._exclude, re.DOTALL) if self._exclude else None
        self._paths: tuple[str, ...] = definition.value(_PATHS)
        self._bits: tuple[str, ...] = definition.value(_BITS)
        self._other_file_systems: bool = not definition.value(_XDEV)

    entry = staticmethod(Entry.parse)

    @staticmethod
    def subject(entry: Entry, /) -> str:
        return quote(entry.subject) if entry.subject else ""

    def differences(self, entry: Entry, thing: Found, /) -> list[str]:
        return entry.differences(thing)

    @property
    def bits(self) -> int:
        return (SUID if "suid" in self._bits else 0) | (SGID if "sgid" in self._bits else 0)

    @property
    def capabilities(self) -> bool:
        return "caps" in self._bits

    def walks(self, mounts: Iterable[Mount]) -> list[str]:
        """The trees to look through. Raises UnknownError when there is none of them."""
        paths = [os.path.realpath(path) for path in self._paths]
        there = [path for path in paths if os.path.lexists(path)]
        if not there:
            raise UnknownError(f"SETUID_PATHS: there is no {' and no '.join(paths)}")
        return walks(there, _mounted(mounts), other_file_systems=self._other_file_systems)

    def excludes(self, path: str) -> bool:
        return excluded(path, self._excluded)

    async def scan(
        self, host: Host, trees: Sequence[str], mounts: Iterable[Mount], *, idle: bool = True
    ) -> tuple[list[Found], Scanned]:
        """What there is in *trees*. Raises UnknownError."""
        mounted = _mounted(mounts)
        found, summary = await host.scanner.setuid(
            trees, barriers(mounted), self._exclude, self.bits, capabilities=self.capabilities, idle=idle
        )
        return [one._replace(nosuid=is_nosuid(one.path, mounted)) for one in found], summary

    async def survey(self, host: Host) -> list[Found]:
        mounts = read_mounts()
        found, summary = await self.scan(host, self.walks(mounts), mounts)
        if summary.unread:
            unread(f"{summary.unread} folders", summary.problems[0])
        if summary.found > MAX_FOUND:
            log.warning("of %d set-uid executables only %d are listed", summary.found, len(found))
        return found

    def file_of(self, host: Host, thing: Found, /) -> str:
        return thing.path

    @staticmethod
    def stated(thing: Found, /) -> Stated:
        return Stated(thing.sha256, thing.mode, bool(thing.capabilities))

    async def survey_of(self, host: Host, subject: str) -> list[Found]:
        return (await self.scan(host, [unquote(subject)], read_mounts(), idle=False))[0]

    async def run(self, host: Host, report: Report) -> None:
        async with aclosing(_Watch(self, host, report)) as watch:
            await watch.run()


class _Watch:
    """One run of the check."""

    def __init__(self, check: SetuidCheck, host: Host, report: Report) -> None:
        self._check = check
        self._host = host
        self._report = report
        self._level = check.settings.default_alert_level
        self._pace = Pace()
        self._expected = Expected(host, report, check, check.inline)
        self._events = SetuidEvents(host, report, check, self._touched, self._scan_soon)
        self._findings = Findings(
            report,
            check.max_alerts,
            "Many unexpected set-uid executables",
            check.id.name,
            self._level,
            remembers=True,
        )
        self._allowed: Allowed | None = None
        self._known: dict[str, Found] = {}
        self._who: dict[str, list[str]] = {}
        self._pending: set[str] = set()
        self._during_scan: set[str] = set()
        self._scanned = self._again = False
        self._scan_at = self._scan_ended = self._fresh_at = 0.0
        self._scan: asyncio.Task[tuple[list[Found], Scanned]] | None = None

    async def run(self) -> None:
        while True:
            try:
                if self._expected.refresh() or self._allowed is None:
                    if self._allowed is None:
                        self._scan_at = 0.0
                    self._allowed = Allowed(self._expected.entries)
                await self._look()
                await self._judge(self._allowed)
            except UnknownError as error:
                self._scan_at = max(self._scan_at, time.monotonic() + RETRY_S)
                self._report.unknown(str(error))
            if await self._report.pause(self._patience(), self._expected.changed, looked=self._has_looked):
                self._look_again()
            if self._expected.changed.is_set():
                await asyncio.sleep(self._pace.pause())

    def _look_again(self) -> None:
        """At what was kept back, which may be over: a scan may take long."""
        kept_back, summed = self._report.is_kept_back, self._findings.members
        again = (path for path in self._known if kept_back(key := quote(path)) or key in summed)
        self._pending.update(islice(again, _MAX_PENDING))

    async def aclose(self) -> None:
        self._expected.close()
        self._events.close()
        if self._scan is not None:
            self._scan.cancel()
            await asyncio.wait([self._scan])

    @property
    def _has_looked(self) -> bool:
        """Whether no scan goes on, and all that events named was looked at."""
        return self._scanned and self._scan is None and not self._pending

    def _patience(self) -> float:
        """Seconds until the next look, should nothing happen. The end of a scan wakes us."""
        return RETRY_S if self._scan is not None else max(self._scan_at - time.monotonic(), 0.0)

    async def _look(self) -> None:
        """A scan that is over counts, one that is due begins; what events named is looked at."""
        if self._scan is not None and self._scan.done():
            self._end_scan()
        elif self._scan is None and time.monotonic() >= self._scan_at:
            self._begin_scan()
        if len(self._pending) > _MAX_PENDING:
            self._pending.clear()
            self._scan_soon()
        if self._pending:
            await self._inspect()

    def _begin_scan(self) -> None:
        self._events.refresh()
        self._during_scan.clear()
        self._again = False
        self._scan_at = time.monotonic() + self._check.interval
        self._scan = asyncio.get_running_loop().create_task(
            self._check.scan(self._host, self._events.walks, self._events.mounts)
        )
        self._scan.add_done_callback(lambda _: self._wake())

    def _end_scan(self) -> None:
        assert self._scan is not None
        scan, self._scan = self._scan, None
        self._scan_ended = time.monotonic()
        if self._again:
            self._scan_soon()
        found, summary = scan.result()
        self._known = {one.path: one for one in found}
        self._scanned = True
        self._pending |= self._during_scan  # the scan may have passed before it happened
        self._events.watch(self._known)
        missed = f"{summary.unread} folders could not be read: {', '.join(map(printable, summary.problems))}"
        self._report.note("unread", missed if summary.unread else "")
        more = f"of {summary.found} set-uid executables only {len(found)} were looked at"
        self._report.note("many", more if summary.found > MAX_FOUND else "")

    def _touched(self, path: str, pid: int) -> None:
        if pid and path not in self._who and len(self._who) < _MAX_WHO:
            who = self._host.procfs.describe(pid)
            self._who[path] = ["by:", *who.lines()] if who else [f"by pid {pid}, which has ended"]
        # Anybody may set the bit on files of his own: a flood of them is no way to fill the memory.
        for kept in (self._pending, self._during_scan) if self._scan is not None else (self._pending,):
            if len(kept) <= _MAX_PENDING:
                kept.add(path)
        self._wake()

    def _scan_soon(self) -> None:
        if self._scan is not None:
            self._again = True  # it may have passed there before
            return
        self._scan_at = min(self._scan_at, self._scan_ended + _RESCAN_S)
        self._wake()

    def _wake(self) -> None:
        self._expected.changed.set()

    async def _inspect(self) -> None:
        """Look at what events named, files and folders with all in them."""
        paths, self._pending = sorted(self._pending), set()
        found, _ = await self._check.scan(self._host, paths, self._events.mounts, idle=False)
        named = set(paths)
        for known in [one for one in self._known if "/" in named or not named.isdisjoint(and_parents(one))]:
            del self._known[known]
        room = max(MAX_FOUND - len(self._known), 0)
        self._known.update((one.path, one) for one in found[:room])
        if len(found) > room:
            self._scan_soon()  # which counts all of them
        for path in self._who.keys() - self._known.keys():
            del self._who[path]
        if self._scanned:
            self._events.watch(self._known)

    async def _judge(self, allowed: Allowed) -> None:
        judged = ((one, allowed.judge(one)) for _, one in sorted(self._known.items()))
        # One after the other: there may be thousands.
        found = (self._observation(one, wrong) for one, wrong in judged if wrong is not None)
        now = time.monotonic()
        fresh = now >= self._fresh_at
        if fresh:
            self._fresh_at = now + _PERIOD_S
        if self._scanned:
            cleared = "The file is gone, is not set-uid any more, or is expected now"
            await self._findings.look(found, cleared, fresh=fresh)
        else:  # what earlier looks found may still be there
            for seen in found:
                self._findings.see(seen)
            await self._findings.summarise()

    def _observation(self, found: Found, wrong: Sequence[str]) -> Observation:
        shown = printable(found.path)
        return Observation(
            self._level,
            f"Unexpected set-uid executable {shown}",
            Subject(shown, "file", "nosuid" if found.nosuid else "set-uid"),
            Details("\n".join(describe(found, wrong, self._who.get(found.path, [])))),
            key=quote(found.path),
            cleared_status="gone or expected",
        )


def describe(found: Found, wrong: Sequence[str], who: Sequence[str]) -> list[str]:
    """What a person needs to judge a set-uid executable."""
    lines = [f"{printable(found.path)}: mode {found.mode:04o}, owner {found.uid}:{found.gid}"]
    if found.capabilities:
        lines.append(f"capabilities: {found.capabilities}")
    lines.append(f"size: {found.size}, sha256: {found.sha256 or 'not read'}")
    if found.links > 1:
        lines.append(f"the file has {found.links} names (hard links)")
    if found.nosuid:
        lines.append("it has no effect here: the file system is mounted nosuid")
    if wrong:
        lines += ["other than the baseline says:", *wrong]
    return [*lines, *who, f"expected by the entry: {found.row}"]


def _mounted(mounts: Iterable[Mount]) -> list[Mounted]:
    """
    *mounts* with the flags that they have for the device's first process.

    A service manager may give us mounts of our own, and has then made all of them nosuid.
    """
    try:
        theirs = {(one.path, one.device, one.root): one for one in read_mounts("1")}
    except UnknownError:
        theirs = {}
    return [
        Mounted(
            one.path, one.device, one.root, one.kind, theirs.get((one.path, one.device, one.root), one).nosuid
        )
        for one in mounts
    ]


CHECK = SetuidCheck
