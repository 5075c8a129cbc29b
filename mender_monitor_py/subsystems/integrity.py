"""
Executables that are not as the baseline has them.

Three ways to see it. inotify tells what happens to the files, their folders and the links that lead there. A
pass over the state of all files, at the start, each INTEGRITY_INTERVAL and after a mount, finds what differs
from the last reading. All is read anew each INTEGRITY_FULL_INTERVAL. Reading and hashing is done by processes
of their own; what has changed does not wait for the slow ones.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import aclosing

from mender_monitor_py.baseline import Glob, inline, quote, unquote
from mender_monitor_py.commandline import printable
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.filestates import FileStates, changed_since, executable, expand
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.mounts import Mount, WatchedMounts
from mender_monitor_py.host.pathwatch import PathWatch
from mender_monitor_py.host.scanner import Hashed
from mender_monitor_py.integritylist import (
    CHANGED,
    MISSING,
    MOVED,
    Entry,
    Executable,
    Verdict,
    begins_entry,
    judge,
)
from mender_monitor_py.model import Observation
from mender_monitor_py.replacedfiles import note
from mender_monitor_py.settings import Settings
from mender_monitor_py.setuidlist import is_below
from mender_monitor_py.subsystems.base import Definition, Field, Report
from mender_monitor_py.subsystems.expected import Baselined, Expected, Stated
from mender_monitor_py.subsystems.fields import absolute_globs, count, interval, size, yes_no
from mender_monitor_py.subsystems.findings import Findings
from mender_monitor_py.subsystems.hashing import Lane, readable
from mender_monitor_py.subsystems.integrityfindings import CLEARED, ended, key, other
from mender_monitor_py.subsystems.integrityimages import ImageFindings, as_it_runs
from mender_monitor_py.subsystems.pace import Pace

RETRY_S = 60.0
_REPLACED_S = 60.0  # from look to look at processes that run what a deployment has replaced
_PERIOD_S = 60.0  # in which INTEGRITY_MAX_ALERTS counts
_BIG = 64 * 1024 * 1024  # bytes: such a file is read at INTEGRITY_RATE, beside the others
_AT_ONCE = 100  # files of a pass, until others have their turn
_RESTLESS = 3  # readings of a file that was another each time right after: what was read counts then


def _entries(text: str) -> tuple[Entry, ...]:
    return inline(text, Entry.parse, begins_entry)


_FILES = Field("INTEGRITY_FILES", absolute_globs, "what baseline learn takes into the list: paths and globs")
_ALLOW = Field("INTEGRITY_ALLOW", _entries, "entries besides the baseline, apart by commas")
_INODE = Field("INTEGRITY_INODE", yes_no, "no: another inode with the same content is none", default="yes")
_INTERVAL = Field("INTEGRITY_INTERVAL", interval, "time from pass to pass", default="1h")
_FULL = Field("INTEGRITY_FULL_INTERVAL", interval, "time until all is read anew", default="1d")
_RATE = Field("INTEGRITY_RATE", size, "bytes a second to read then", default="20M")
_MAX_ALERTS = Field(
    "INTEGRITY_MAX_ALERTS", count, "new findings in one look with an alert each", default="20"
)


class IntegrityCheck(Baselined[Entry, Executable]):
    """A listed executable has another content, is another file, or is missing."""

    subsystem = "integrity"
    summary = "executables that are not as they were"
    fields = (_FILES, _ALLOW, _INODE, _INTERVAL, _FULL, _RATE, _MAX_ALERTS)
    columns = ("SHA256", "INODE", "DEVICE", "MODE", "OWNER", "PATH")

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.inline = definition.value(_ALLOW)
        self.inode: bool = definition.value(_INODE)
        self.interval: float = definition.value(_INTERVAL)
        self.full_interval: float = definition.value(_FULL)
        self.rate: int = definition.value(_RATE)
        self.max_alerts: int = definition.value(_MAX_ALERTS)
        self._files: tuple[Glob, ...] = definition.value(_FILES)

    entry = staticmethod(Entry.parse)

    @staticmethod
    def same_again(entry: Entry, thing: Executable, /) -> bool:
        return entry.names(thing.path) and not entry.differences(thing, inode=False)

    @staticmethod
    def order(row: str, /) -> str:
        fields = row.split()
        return fields[5] if len(fields) > 5 else row

    @staticmethod
    def subject(entry: Entry, /) -> str:
        return quote(entry.subject) if entry.subject else ""

    def allows(self, entry: Entry, thing: Executable, /) -> bool:
        return entry.names(thing.path) and not self.differences(entry, thing)

    def differences(self, entry: Entry, thing: Executable, /) -> list[str]:
        return entry.differences(thing, inode=self.inode)

    async def survey(self, host: Host) -> list[Executable]:
        paths = expand(self._files)
        if not paths:
            raise UnknownError("INTEGRITY_FILES names no file that is there")
        return readable(await host.scanner.hash_all(paths))

    async def survey_since(self, host: Host, entries: Sequence[Entry], since: float) -> list[Executable]:
        paths = {entry.literal for entry in entries if entry.literal}.union(expand(self._files))
        return readable(await host.scanner.hash_all(sorted(changed_since(paths, since))))

    def file_of(self, host: Host, thing: Executable, /) -> str:
        return thing.path

    async def expected_running(self, host: Host, entries: Sequence[Entry], pid: int, path: str) -> bool:
        about = [entry._replace(target="") for entry in entries if entry.names(path)]
        found = await as_it_runs(host, pid, path) if about else None
        return found is None or not judge(about, found, inode=self.inode).kind

    @staticmethod
    def stated(thing: Executable, /) -> Stated:
        return Stated(thing.sha256, int(thing.mode, 8))

    @staticmethod
    def gone(entries: Sequence[Entry], /) -> list[str]:
        return [entry.literal for entry in entries if entry.literal and not os.path.lexists(entry.literal)]

    async def survey_of(self, host: Host, subject: str) -> list[Executable]:
        return readable(await host.scanner.hash_all([unquote(subject)]))

    async def run(self, host: Host, report: Report) -> None:
        async with aclosing(_Watch(self, host, report)) as watch:
            await watch.run()


class _Watch:
    """One run of the check."""

    def __init__(self, check: IntegrityCheck, host: Host, report: Report) -> None:
        self._check = check
        self._report = report
        self._installation = host.installation
        self._level = check.settings.default_alert_level
        self._pace = Pace()
        self._expected = Expected(host, report, check, check.inline)
        self._findings = Findings(
            report,
            check.max_alerts,
            "Many executables are not as expected",
            check.id.name,
            self._level,
            remembers=True,
        )
        self._paths = PathWatch(host.inotify, self._touched, self._pass_soon)
        self._table = WatchedMounts(self._mounts_changed)
        self._mounts: set[Mount] = set()
        self._covered: frozenset[str] = frozenset()
        self._targets: dict[str, list[Entry]] = {}
        self._states = FileStates()
        self._bad: dict[str, Observation] = {}
        self._unread: dict[str, str] = {}
        self._restless: dict[str, int] = {}
        self._touched_paths: set[str] = set()
        self._pass_at = self._full_at = self._fresh_at = 0.0
        self._complete = False  # all has been read once: what is not bad now is good
        scanner = host.scanner
        self._quick = Lane(scanner, 0, self._hashed, self._lane_ended)
        self._big = Lane(scanner, check.rate, self._hashed, self._lane_ended)
        self._full = Lane(scanner, check.rate, self._hashed, self._lane_ended)
        self._images = ImageFindings(host, self._judge_image, self._level)
        self._failure = ""
        self._undo = host.replaced.listen(self._pass_soon)

    async def run(self) -> None:
        while True:
            try:
                if self._expected.refresh() or not self._targets:
                    await self._take_list()
                if self._failure:
                    failure, self._failure = self._failure, ""
                    raise UnknownError(failure)
                await self._look()
            except UnknownError as error:
                self._report.unknown(str(error))
                self._pass_at = max(self._pass_at, time.monotonic() + RETRY_S)
            looked = self._complete and self._quick.idle and self._big.idle and not self._touched_paths
            if await self._report.pause(self._patience(), self._expected.changed, looked=looked):
                self._pass_soon()
            if self._expected.changed.is_set():
                await asyncio.sleep(self._pace.pause())

    def _patience(self) -> float:
        """Seconds until the next look, should nothing happen: what was replaced and is run still may end."""
        left = max(self._pass_at - time.monotonic(), 0.0)
        return min(left, _REPLACED_S) if self._images.replaced else left

    async def aclose(self) -> None:
        self._undo()
        self._installation.folders.pop(self, None)
        self._expected.close()
        self._paths.close()
        for lane in (self._quick, self._big, self._full):
            await lane.aclose()
        self._table.close()

    async def _look(self) -> None:
        touched, self._touched_paths = self._touched_paths, set()
        for path in touched:
            self._states.forget(path)
            self._look_at(path)
        if time.monotonic() >= self._pass_at:
            await self._pass()
            await self._images.look(self._targets, self._paths.names)
        elif touched or self._images.replaced:
            await self._images.look(self._targets, self._paths.names)
        if not self._complete and self._full.idle:
            self._complete = True
        await self._tell()

    async def _take_list(self) -> None:
        """What to look at, from the list. Raises UnknownError when that is nothing."""
        targets: dict[str, list[Entry]] = {}
        for entry in self._expected.entries:
            paths = [entry.literal] if entry.literal else await asyncio.to_thread(expand, [Glob(entry.path)])
            for path in paths or [entry.path]:
                targets.setdefault(path, []).append(entry)
        if not targets:
            raise UnknownError(f"the baseline of {self._check.id} has no entries")
        self._targets = targets
        self._installation.folders[self] = {path.rpartition("/")[0] for path in targets}
        self._states.keep(targets)
        self._images.forget()
        for kept in (self._bad, self._unread, self._restless):
            for path in kept.keys() - targets.keys():
                del kept[path]
        self._pass_soon()

    # What may be different

    def _touched(self, path: str) -> None:
        for name in self._paths.names(path):
            if name in self._targets:
                self._touched_paths.add(name)
                self._wake()

    def _pass_soon(self) -> None:
        self._pass_at = 0.0
        self._wake()

    def _wake(self) -> None:
        self._expected.changed.set()

    async def _pass(self) -> None:
        """Compare the state of all files with that of their last reading."""
        if any(not entry.literal for entry in self._expected.entries):
            await self._take_list()  # its globs may mean other files now
        self._pass_at = time.monotonic() + self._check.interval
        self._read_mounts()
        self._paths.watch(self._targets)
        self._report.note("inotify", self._paths.problem)
        unread = []
        for number, path in enumerate(list(self._targets)):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if not self._look_at(path):
                unread.append(path)
        if time.monotonic() >= self._full_at:
            self._full_at = time.monotonic() + self._check.full_interval
            unread = list(self._targets)
        # The small ones first: nobody waits for a file that takes minutes.
        self._full.add(sorted(unread, key=self._states.size))

    def _look_at(self, path: str) -> bool:
        """Judge *path* by its state, if that is enough; else have it read. False: it was never read."""
        state = self._states.look(path)
        if state.error == "missing":
            self._judge(path, None)
        elif state.error:
            self._unread[path] = state.error
        elif known := self._states.known(path, state):
            self._judge(path, known)
        elif self._states.was_read(path) or not self._looks_right(path, state.executable):
            (self._big if state.size > _BIG else self._quick).add([path])
        else:
            return False
        return True

    def _looks_right(self, path: str, found: Executable) -> bool:
        """Before anything has been read: whether all but the content is as expected."""
        return self._is_expected([e._replace(sha256="*") for e in self._targets[path]], found)

    def _read_mounts(self) -> None:
        self._mounts = set(self._table.read())
        self._covered = frozenset(mount.path for mount in self._mounts)

    def _mounts_changed(self) -> None:
        try:
            changed = {mount.path for mount in self._mounts ^ set(self._table.read())}
        except UnknownError:
            self._pass_soon()  # which tells
            return
        if any(is_below(path, place) for place in changed for path in self._targets):
            self._pass_soon()

    # The verdict

    def _hashed(self, found: Hashed) -> None:
        """A file was read."""
        if found.path not in self._targets:
            return
        before = self._bad.get(found.path)
        self._unread.pop(found.path, None)
        if found.error == "missing":
            self._judge(found.path, None)
        elif found.error.startswith("kind: "):
            self._bad[found.path] = self._observation(
                found.path, Verdict(CHANGED, (f"it is {found.error[6:]} now",))
            )
        elif found.error:
            self._unread[found.path] = found.error
        elif self._states.is_now(found):
            self._restless.pop(found.path, None)
            self._judge(found.path, self._states.learn(found, self._targets[found.path]))
        else:
            self._judge_restless(found)
        if found.path in self._touched_paths or self._bad.get(found.path) is not before:
            self._wake()

    def _judge_restless(self, found: Hashed) -> None:
        """
        A file was changed or replaced while it was read, or since: it is read again.

        Who does that again and again does not keep what was read from being a finding. An OK waits for rest.
        """
        path = found.path
        self._touched_paths.add(path)
        self._restless[path] = times = self._restless.get(path, 0) + 1
        if times >= _RESTLESS and not self._is_expected(self._targets[path], executable(found)):
            self._judge(path, executable(found))

    def _is_expected(self, entries: Sequence[Entry], found: Executable) -> bool:
        return not judge(entries, found, inode=self._check.inode).kind

    def _lane_ended(self, reason: str) -> None:
        self._failure = reason or self._failure
        self._wake()

    def _judge(self, path: str, found: Executable | None) -> None:
        self._unread.pop(path, None)
        verdict = judge(self._targets[path], found, inode=self._check.inode, covered=path in self._covered)
        if not self._complete:
            self._clear_others(path, verdict)
        if not verdict.kind:
            self._bad.pop(path, None)
        elif path not in self._bad or self._bad[path].key != key(path, verdict.kind):
            self._bad[path] = self._observation(path, verdict)

    def _clear_others(self, path: str, verdict: Verdict) -> None:
        """What was wrong with *path* and is not so any more ends now; others wait for their first reading."""
        for kind in (CHANGED, MOVED, MISSING):
            if kind != verdict.kind and self._report.is_bad(key(path, kind)):
                self._report.observe(ended(path, kind))

    def _judge_image(self, path: str, found: Executable) -> Verdict:
        # What runs is a file: by which link it was started is not known.
        entries = [entry._replace(target="") for entry in self._targets[path]]
        return judge(entries, found, inode=self._check.inode)

    def _observation(self, path: str, verdict: Verdict) -> Observation:
        return other(path, verdict, level=self._level, covered=path in self._covered)

    async def _tell(self) -> None:
        found = [self._bad[path] for path in sorted(self._bad)] + self._images.observations
        now = time.monotonic()
        fresh = now >= self._fresh_at
        if fresh:
            self._fresh_at = now + _PERIOD_S
        if self._complete:
            await self._findings.look(found, CLEARED, fresh=fresh)
        else:  # what was found before a restart may still be so
            for seen in found:
                self._findings.see(seen)
            await self._findings.summarise()
        self._report.note("replaced", note(self._images.replaced))
        unread = [f"{printable(path)}: {reason}" for path, reason in sorted(self._unread.items())]
        text = f"{len(unread)} files cannot be read, the first: {unread[0]}" if unread else ""
        self._report.note("unread", text)


CHECK = IntegrityCheck
