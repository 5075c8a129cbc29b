"""
Programs that are not expected to run.

Every execution is judged when it happens, by the process connector and fanotify (host/processevents.py). A
look at /proc, at the start, each PROCESS_INTERVAL and after lost events, is the safety net; without events it
is made every two seconds, and is all there is.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace

from mender_monitor_py.baseline import inline
from mender_monitor_py.commandline import printable
from mender_monitor_py.duration import seconds
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.images import Images, RunningImages
from mender_monitor_py.host.ownprograms import own_programs
from mender_monitor_py.host.processevents import Execution, Exit
from mender_monitor_py.model import OK, Observation
from mender_monitor_py.proclist import Entry, Facts, Image, Programs, begins_entry, file_of
from mender_monitor_py.replacedfiles import note
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition, Field, Report
from mender_monitor_py.subsystems.expected import Baselined, Expected
from mender_monitor_py.subsystems.fields import choice, choices, count, interval, yes_no
from mender_monitor_py.subsystems.findings import Findings
from mender_monitor_py.subsystems.processexecutions import Executions
from mender_monitor_py.subsystems.processfindings import describe, unexpected, unnamed
from mender_monitor_py.subsystems.processhidden import HiddenFindings
from mender_monitor_py.subsystems.processsurvey import INSTALLED, RUNNING, installed, running
from mender_monitor_py.subsystems.processsurvey import expected as expected_as
from mender_monitor_py.subsystems.processverdicts import Verdicts

POLLED_S = 2.0  # from look to look without events
GAP_S = 0.5  # at least, from look to look
SUMMARY_S = 2.0  # a burst of findings is summed up after this long
_MAX_TOLD = 1000
_MAX_LATER = 4096  # a flood of them is no way to remain unseen: further ones are findings without asking


def _entries(text: str) -> tuple[Entry, ...]:
    return inline(text, Entry.parse, begins_entry)


_ALLOW = Field(
    "PROCESS_ALLOW", _entries, "entries besides the baseline, as /usr/bin/python3 /opt/x.py user:app"
)
_LEARN = Field(
    "PROCESS_LEARN", choices(RUNNING, INSTALLED), "what baseline learn takes into the list", default=RUNNING
)
_MODE = Field("PROCESS_MODE", choice("allow", "deny"), "deny: what is listed must not run", default="allow")
_KERNEL = Field("PROCESS_KERNEL_THREADS", yes_no, "whether kernel threads count", default="no")
_SCRIPTS = Field("PROCESS_SCRIPTS", yes_no, "an interpreter counts as the script it runs", default="yes")
_HIDDEN = Field("PROCESS_HIDDEN", yes_no, "look for processes that hide from /proc", default="yes")
_INTERVAL = Field("PROCESS_INTERVAL", interval, "time from full look to full look", default="1m")
_EXPIRATION = Field("PROCESS_EXPIRATION", seconds, "a short process is over after this", default="1h")
_MAX_ALERTS = Field(
    "PROCESS_MAX_ALERTS", count, "new findings in one interval with an alert each", default="20"
)


class ProcessCheck(Baselined[Entry, Image]):
    """A program runs that neither the baseline nor PROCESS_ALLOW expects, or a process hides."""

    subsystem = "process"
    summary = "programs that are not expected to run"
    fields = (_ALLOW, _LEARN, _MODE, _KERNEL, _SCRIPTS, _HIDDEN, _INTERVAL, _EXPIRATION, _MAX_ALERTS)
    columns = ("PROGRAM", "SCRIPT, CONDITIONS")

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.inline = definition.value(_ALLOW)
        self._learn: tuple[str, ...] = definition.value(_LEARN)
        self.deny: bool = definition.value(_MODE) == "deny"
        self.hidden: bool = definition.value(_HIDDEN)
        self.interval: float = definition.value(_INTERVAL)
        self.max_alerts: int = definition.value(_MAX_ALERTS)
        self._kernel_threads: bool = definition.value(_KERNEL)
        self._scripts: bool = definition.value(_SCRIPTS)
        self._expiration: float = definition.value(_EXPIRATION)

    entry = staticmethod(Entry.parse)

    @staticmethod
    def led(entry: Entry, /) -> Entry:
        return entry.leading(os.path.realpath)

    @property
    def expires_after(self) -> float | None:
        return self._expiration or None

    def images(self, host: Host) -> Images:
        return Images(host.procfs, scripts=self._scripts, kernel_threads=self._kernel_threads)

    async def survey(self, host: Host) -> list[Image]:
        found: set[Image] = set() if self.deny or not self._scripts else set(own_programs(host.procfs))
        if RUNNING in self._learn:
            found |= running(host.procfs, self.images(host))
        if INSTALLED in self._learn:
            found |= installed()
        return sorted(found)

    async def expected_running(self, host: Host, entries: Sequence[Entry], pid: int, path: str) -> bool:
        images = self.images(host)
        return self.deny or await asyncio.to_thread(expected_as, entries, images, pid, path)

    @property
    def follows_deployments(self) -> bool:
        return not self.deny

    def candidates(self, entries: Sequence[Entry]) -> Callable[[Image], Iterable[Entry]]:
        return Programs(entries).about

    def file_of(self, host: Host, thing: Image, /) -> str:
        return file_of(thing)

    async def run(self, host: Host, report: Report) -> None:
        with closing(_Watch(self, host, report)) as watch:
            async with host.processes.listening(watch):
                await watch.run()


class _Watch:
    """One run of the check; a listener of the process events."""

    def __init__(self, check: ProcessCheck, host: Host, report: Report) -> None:
        self._check = check
        self._host = host
        self._procfs = host.procfs
        self._events = host.processes
        self._report = report
        self._level = check.settings.default_alert_level
        self._images = check.images(host)
        self._hidden = HiddenFindings(host, self._level, wanted=check.hidden)
        self._expected = Expected(host, report, check, check.inline)
        self._findings = Findings(
            report,
            check.max_alerts,
            "Many unexpected processes",
            check.id.name,
            self._level,
            events=True,
            remembers=True,
        )
        self._verdicts = Verdicts(self._expected, deny=check.deny)
        self._later: list[tuple[Image, int, Facts]] = []
        self._running = RunningImages(host.procfs, self._images)
        self._executions = Executions(
            host, self._images, self._running, self._verdicts, self._judge, self._not_named, deny=check.deny
        )
        self._ends: set[int] = set()  # processes whose end is worth a look
        self._told: dict[str, Image] = {}
        self._lasting: set[str] = set()
        self._unnamed = 0
        self._undo = host.replaced.listen(self._look_soon)
        self._look_due = True
        self._summary: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        full_look_at = 0.0
        while True:
            fresh = time.monotonic() >= full_look_at
            try:
                self._refresh()
                if fresh or self._look_due:
                    self._look_due = False
                    await self._look(fresh=fresh)
                    if fresh:
                        full_look_at = time.monotonic() + self._period
                await self._judge_later()
                await self._findings.summarise()
            except UnknownError as error:
                self._look_due, full_look_at = True, time.monotonic() + self._period
                self._report.unknown(str(error))
            self._note()
            await asyncio.sleep(GAP_S)
            patience = max(full_look_at - time.monotonic(), 0.0)
            if await self._report.pause(patience, self._expected.changed):
                self._look_due = self._hidden.due = True

    def close(self) -> None:
        self._undo()
        self._expected.close()
        self._executions.close()
        if self._summary is not None:
            self._summary.cancel()

    @property
    def _period(self) -> float:
        return self._check.interval if self._events.sees_execs else min(self._check.interval, POLLED_S)

    def _refresh(self) -> None:
        """Take over a changed list. Raises UnknownError when there is none."""
        try:
            changed = self._expected.refresh()
        except UnknownError:
            self._verdicts.end()
            raise
        if not changed and self._verdicts.known:
            return
        self._verdicts.begin()
        self._look_due = True
        for label, image in list(self._told.items()):
            if self._verdicts.of(image) is False:
                del self._told[label]
                if self._report.is_bad(label):
                    self._report.observe(unexpected(label, ["It is expected now"], level=OK))

    # What the events tell

    def executed(self, executions: list[Execution]) -> None:
        self._executions.told(executions)

    def exited(self, exits: list[Exit]) -> None:
        for end in exits:
            self._executions.ended(end.pid)
            if self._hidden.ended(end.pid) or end.pid in self._ends:
                self._look_soon()

    def events_lost(self) -> None:
        self._executions.lost()
        self._look_soon()

    def mounts_changed(self) -> None:
        self._hidden.due = True
        self._look_soon()

    def _not_named(self, pid: int, number: int) -> None:
        self._unnamed += number
        birth = self._events.born.get(pid)
        who = self._procfs.describe(birth.parent) if birth else None
        self._see(unnamed(self._unnamed, pid, who, self._check.id.name, self._level))

    def _look_soon(self) -> None:
        self._look_due = True
        self._wake()

    def _wake(self) -> None:
        self._expected.changed.set()

    # Judging

    def _judge(self, image: Image, pid: int) -> None:
        verdict = self._verdicts.of(image)
        if verdict is False or self._host.installs(pid):
            return
        if (verdict is None or self._host.updating) and len(self._later) < _MAX_LATER:
            self._later.append((image, pid, self._facts(pid)))
            self._wake()
        else:
            self._see_started(image, pid)

    async def _judge_later(self) -> None:
        waiting, self._later = self._later, []
        for image, pid, facts in waiting:
            verdict = self._verdicts.of(image) or await self._conditions_tell(image, pid, facts)
            if verdict and not await self._host.brings(file_of(image), pid, self._images.digest):
                self._see_started(image, pid)

    def _facts(self, pid: int) -> Facts:
        """Who runs *pid*; a parent that a deployment has replaced counts by its path."""
        facts, stat = self._images.facts(pid), self._procfs.stat(pid)
        parent = self._host.replaced.path(stat.parent) if stat is not None else ""
        return facts._replace(parent=parent) if parent else facts

    async def _conditions_tell(self, image: Image, pid: int, facts: Facts) -> bool:
        entries = self._verdicts.about(image)
        if not self._check.deny and self._host.replaced.path(pid):
            # It is the old software: its content was as expected when it was replaced.
            entries = [replace(entry, sha256="") for entry in entries]
        if any(entry.sha256 for entry in entries):
            facts = facts._replace(sha256=await asyncio.to_thread(self._images.digest, image.executable, pid))
        return any(entry.holds(facts) for entry in entries) == self._check.deny

    def _see_started(self, image: Image, pid: int) -> None:
        """*pid* has begun to run *image*. Where one is known to stay, that is no event, which expires."""
        label = printable(image.label, 400)
        if label not in self._lasting or not self._report.is_bad(label):
            self._see(self._unexpected(image, pid))

    def _unexpected(self, image: Image, pid: int, *, lasting: bool = False) -> Observation:
        label = printable(image.label, 400)
        if len(self._told) < _MAX_TOLD:
            self._told[label] = image
        # Of many that come and go not each is asked; of one that stays the finding may yet have to tell.
        again = not lasting and self._report.is_bad(label)
        who = None if again else self._procfs.describe(pid)
        lines = describe(image, pid, who, deny=self._check.deny, again=again)
        return unexpected(label, lines, level=self._level, event=not lasting)

    def _see(self, seen: Observation) -> None:
        self._findings.see(seen)
        if self._findings.waiting and self._summary is None:
            self._summary = asyncio.get_running_loop().call_later(SUMMARY_S, self._summarise)

    def _summarise(self) -> None:
        self._summary = None
        self._wake()

    # The look at everything

    async def _look(self, *, fresh: bool) -> None:
        """Judge all that runs now. Raises UnknownError."""
        pids = self._procfs.pids()
        if 1 not in pids:
            raise UnknownError("/proc does not show the processes of other users (hidepid): CAP_SYS_PTRACE")
        self._ends.clear()
        self._hidden.due = self._hidden.due or fresh
        denied = 0
        replaced: dict[str, list[int]] = {}
        found: dict[str, Observation] = {}
        for pid in pids:
            try:
                image = self._running.of_process(pid)
            except PermissionError:
                denied += 1
                continue
            if image is not None and image.deleted and (path := self._host.replaced.path(pid)):
                image = image._replace(executable=path)
                replaced.setdefault(path, []).append(pid)
                self._ends.add(pid)
            verdict = self._verdicts.of(image) if image is not None else False
            if image is not None and verdict is None:
                verdict = await self._conditions_tell(image, pid, self._facts(pid))
            if image is not None and verdict and self._may_be_restarted(image):
                continue
            if image is not None and verdict:
                verdict = not await self._host.brings(file_of(image), pid, self._images.digest)
            if image is not None and verdict:
                lasting = self._has_lasted(pid)
                if lasting:
                    self._ends.add(pid)
                known = found.get(printable(image.label, 400))
                if known is None or (lasting and known.event):
                    seen = self._unexpected(image, pid, lasting=lasting)
                    found[seen.key] = seen
        self._running.forget_others(pids)
        if denied and not self._procfs.sees_all():
            raise UnknownError("not permitted to see what others run: CAP_SYS_PTRACE")
        self._report.note("replaced", note(replaced))
        self._report.note("denied", f"{denied} processes cannot be looked at" if denied else "")
        self._settle(found)
        cleared = "The process has ended, or is expected now"
        await self._findings.look([*found.values(), *self._hidden.look()], cleared, fresh=fresh)

    def _may_be_restarted(self, image: Image) -> bool:
        """
        Whether the file of *image* was removed while something is installed, by that as a rule.

        What still runs from it afterwards is found then.
        """
        known = self._report.is_bad(printable(image.label, 400))
        return image.deleted and self._host.installing and not known

    def _has_lasted(self, pid: int) -> bool:
        """Whether *pid* is older than an interval: then its end is worth an OK, and not its age."""
        started = self._procfs.age(pid, self._host.clock.boottime())
        return started is not None and started >= self._check.interval

    def _settle(self, found: dict[str, Observation]) -> None:
        """What was an event so far, and has lasted, ends when the process does."""
        lasting = {key for key, seen in found.items() if not seen.event}
        for key in lasting - self._lasting:
            if self._report.is_bad(key):
                self._report.observe(found[key])
        self._lasting = lasting

    def _note(self) -> None:
        limits = "; ".join(limit for limit in self._events.limits.values() if limit)
        self._report.note("events", limits)
        lost = self._events.lost
        self._report.note(
            "lost", f"{lost} events were lost, and all processes looked at again" if lost else ""
        )
        self._report.note("unnamed", f"{self._unnamed} processes could not be named" if self._unnamed else "")


CHECK = ProcessCheck
