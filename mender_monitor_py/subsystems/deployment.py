"""
Deployments that fail, and those that get stuck.

The truth is in the deployment's log. The update client's store, its module's work tree and our state scripts
tell when to look, and of what has no log: artifacts that somebody installs by hand.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from mender_monitor_py import deploymentevents, deploymentjudge
from mender_monitor_py.deploymentevents import Event
from mender_monitor_py.deploymentjudge import Memory, Verdict
from mender_monitor_py.deploymentlog import fit
from mender_monitor_py.duration import seconds
from mender_monitor_py.errors import OutboxError, UnknownError
from mender_monitor_py.host import inotify, spool
from mender_monitor_py.host.deploymentlogs import LAST, LogFile
from mender_monitor_py.host.deploymentlogs import read as read_log
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import Details, Line, Observation, Subject
from mender_monitor_py.pidwatch import lifetime
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.expected import wait
from mender_monitor_py.updateprogress import STANDALONE, Change, Outcome, Update
from mender_monitor_py.updatestate import BROKEN

FAILED, STUCK = "Deployment failed", "Deployment stuck"
SETTLE_S = 3.0  # a script's word may come before the client's own, or after it
SAFETY_S = 600.0  # from look to look while events tell all
_STUCK_KEY = "\tstuck"  # no artifact's: what they are called is made fit to be shown

_STUCK = Field(
    "DEPLOYMENT_STUCK", seconds, "one that does not move for this long is stuck; 0: never", default="2h"
)

log = logging.getLogger(__name__)


class DeploymentCheck(Check):
    """A deployment of the update client failed, or is stuck."""

    subsystem = "deployment"
    summary = "deployments that fail or get stuck"
    fields = (_STUCK,)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.stuck: float = definition.value(_STUCK)

    async def run(self, host: Host, report: Report) -> None:
        with closing(_Watch(self, host, report)) as watch:
            await watch.run()


class _Watch:
    """One run of the check."""

    def __init__(self, check: DeploymentCheck, host: Host, report: Report) -> None:
        self._check = check
        self._updates = host.updates
        self._clock = host.clock
        self._inotify = host.inotify
        self._report = report
        self._spool = host.paths.deployment_spool
        self._memory = Memory.from_text(report.memory)
        self._taken: set[Path] = set()  # what the scripts wrote, and was judged
        self._stored = True  # what came of it
        self._awaited = 0.0  # until when their words are
        self._wake = asyncio.Event()
        self._ended: list[Change] = []
        self._known_logs: dict[str, tuple[int, int]] = {}
        self._moved = self._clock.boottime()
        self._watch: inotify.Watch | None = None
        self._undo = self._updates.listen(self._changed, self._stirred)
        current = self._updates.current
        if current is not None:
            self._moved = max(current.since.boottime, self._last_writing())
            self._note_running(current)

    async def run(self) -> None:
        while True:
            self._wake.clear()
            self._watch_spool()
            patience = SAFETY_S
            # Where no client has ever run, nothing has failed.
            self._report.note("client", self._updates.unknown if self._updates.absent else "")
            unknown = "" if self._updates.absent else self._updates.unknown
            try:
                await self._judge_logs()
                patience = await self._judge_the_rest()
            except UnknownError as error:
                unknown = str(error)
            if unknown:
                self._report.unknown(unknown)
            else:
                self._report.known()
            patience = min(patience, self._judge_stuck())
            await wait(self._wake, patience)

    def close(self) -> None:
        self._undo()
        if self._watch is not None:
            self._watch.cancel()

    # What is told

    def _changed(self, change: Change) -> None:
        self._moved = self._clock.boottime()
        self._note_running(change.update)
        if change.outcome is not None:
            self._ended.append(change)
        self._wake.set()

    def _stirred(self) -> None:
        self._moved = self._clock.boottime()
        self._wake.set()

    def _watch_spool(self) -> None:
        """The scripts make the folder when they first need it."""
        if self._watch is not None and self._watch.active:
            return
        with suppress(OSError):
            self._spool.mkdir(mode=0o700, exist_ok=True)
            self._watch = self._inotify.watch(
                self._spool, inotify.IN_CLOSE_WRITE | inotify.IN_MOVED_TO, lambda _: self._wake.set()
            )

    # Judging

    async def _judge_logs(self) -> None:
        """Each log that has its end, and was not judged before: the oldest first. Raises UnknownError."""
        files = self._updates.logs()
        self._known_logs = {
            file.deployment: self._known_logs[file.deployment]
            for file in files
            if file.deployment in self._known_logs
        }
        fresh, unread = self._memory.fresh, None
        for file in reversed(files):
            if file.deployment in self._memory.judged or self._is_same(file):
                continue
            try:
                grows = file.deployment in self._known_logs
                found = read_log(file, LAST) if grows else None
                if found is None or found.success is not None:
                    found = read_log(file)
            except UnknownError as error:  # it is tried again; the others are judged
                unread = error
                continue
            self._known_logs[file.deployment] = file.changed, file.size
            if found.success is None:
                continue
            seen = self._take(file.deployment)
            self._memory = self._memory.with_judged(file.deployment)
            if not fresh or seen is not None:
                installed = self._updates.artifact if file is files[0] else ""  # by later ones
                before = self._memory.installed
                found = replace(found, artifact=found.artifact or self._memory.artifact_of(file.deployment))
                await self._tell(deploymentjudge.by_log(file.deployment, found, seen, installed, before))
        if unread is not None:
            raise unread
        if fresh:
            # A device that gets this check has its history, which is no news.
            self._remember(replace(self._memory, installed=self._updates.artifact, fresh=False))
            if not self._updates.unknown:
                for path, _, _ in spool.read(self._spool, 0):
                    spool.remove(path)

    def _is_same(self, file: LogFile) -> bool:
        return self._known_logs.get(file.deployment) == (file.changed, file.size)

    def _take(self, deployment: str) -> Change | None:
        """What the store showed of a deployment: its end, or where it is now."""
        for change in self._ended:
            if change.update.id == deployment:
                self._ended.remove(change)
                return change
        current = self._updates.current
        return Change(current) if current is not None and current.id == deployment else None

    async def _judge_the_rest(self) -> float:
        """What has no log. Returns after how many seconds there may be more to judge."""
        events, paths = self._events()
        installed, left = self._updates.artifact, self._updates.left
        if (patience := self._awaits_scripts(events)) > 0:
            return patience
        changes, self._ended = self._ended, []
        verdict: Verdict | None = None
        for change in changes:
            if self._memory.has_judged(change.update):
                continue
            if change.update.mode == STANDALONE:
                verdict = deploymentjudge.by_hand(change, events, installed, left)
                self._note_last(change.update.artifact)
            else:
                verdict = deploymentjudge.by_store(change, installed)
                if verdict is not None:
                    self._memory = self._memory.with_judged(change.update.id)
            if verdict is not None:
                await self._tell(verdict)
        by_hand = any(change.update.mode == STANDALONE for change in changes)
        if not events or by_hand:
            self._remove(paths)
            return await self._judge_name(installed)
        if not self._updates.settled:
            return SAFETY_S
        youngest = min(self._age(event) for event in events)
        if youngest < SETTLE_S:
            return SETTLE_S - youngest
        new = [event for event in events if not self._memory.is_late(event)]
        installations = deploymentevents.by_installation(new)
        for one in installations:
            # The tree is that of the last one.
            verdict = deploymentjudge.by_hand(None, one, installed, left if one is installations[-1] else "")
            if verdict is not None:
                self._note_last(verdict.artifact)
                if verdict.id:
                    self._memory = self._memory.with_judged(verdict.id)
                await self._tell(verdict)
        self._remove(paths)
        return await self._judge_name(installed)

    def _awaits_scripts(self, events: list[Event]) -> float:
        """The seconds for which to wait for their words: a busy device writes them after the client's own."""
        by_hand = [change for change in self._ended if change.update.mode == STANDALONE]
        unclear = not events and any(change.outcome == Outcome.FAILED for change in by_hand)
        now = self._clock.boottime()
        until = (self._awaited or now + SETTLE_S) if unclear else 0.0
        self._awaited = until if until > now else 0.0
        return until - now

    async def _judge_name(self, installed: str) -> float:
        """The name of what is installed tells of a failure that nothing else told of, and of a success."""
        known = self._updates.settled and not self._updates.unknown and installed
        if known and installed != self._memory.installed:
            name = installed.removesuffix(BROKEN)
            self._memory = replace(self._memory, installed=installed)
            if name == installed:
                self._success(installed)
            elif not self._report.is_bad(fit(name)):
                await self._tell(deploymentjudge.by_name(installed))
            self._remember(self._memory)
        return SAFETY_S

    def _events(self) -> tuple[list[Event], list[Path]]:
        """What the scripts wrote of what has no log, the oldest first. What is of no use is removed."""
        events, paths = [], []
        for path, data, age in spool.read(self._spool, deploymentevents.MAX_SIZE):
            if path in self._taken:
                continue
            try:
                event = deploymentevents.parse(data)
            except ValueError as error:
                log.warning("%s is removed: %s", path, error)
                spool.remove(path)
                continue
            if event is not None:
                event = self._memory.completed(event)
            if event is None:
                if age > 60:  # its writer ended before it was whole
                    spool.remove(path)
            elif event.deployment and event.mode == "managed" and self._has_log(event.deployment):
                spool.remove(path)  # the log tells more
            else:
                events.append(event)
                paths.append(path)
        return deploymentevents.in_order(events), paths

    def _has_log(self, deployment: str) -> bool:
        return deployment in self._memory.judged or deployment in self._known_logs

    def _age(self, event: Event) -> float:
        now = self._clock.now()
        return now.boottime - event.boottime if event.boot_id == now.boot_id else SETTLE_S

    def _note_running(self, update: Update) -> None:
        """Its log does not have the artifact's name, and may be all that is left of it after a reboot."""
        ran = update.id, update.artifact
        if all(ran) and self._memory.ran != ran and not self._memory.fresh:
            self._remember(replace(self._memory, ran=ran))

    def _note_last(self, artifact: str) -> None:
        now = self._clock.now()
        self._memory = replace(self._memory, last=(artifact, now.boot_id, now.boottime, now.wall))

    def _remove(self, paths: list[Path]) -> None:
        """What they led to is on the disk; or it is not yet, and they are kept for the next start."""
        self._taken.update(paths)
        if self._stored:
            for path in self._taken:
                spool.remove(path)
            self._taken.clear()

    # Telling

    async def _tell(self, verdict: Verdict) -> None:
        """The verdict is remembered with the alert that it leads to, in one transaction."""
        self._memory = replace(self._memory, installed=verdict.installed or self._memory.installed)
        if verdict.success:
            self._success(verdict.subject)
            return
        if verdict.harmless:
            # Whoever aborted it wanted this, and there is nothing to do on the device.
            log.info("%s", verdict.text().replace("\n", "; "))
            self._remember(self._memory)
            return
        seen = Observation(
            level=self._check.settings.default_alert_level,
            name=FAILED,
            subject=Subject(verdict.subject, "deployment", str(verdict.outcome)),
            details=Details(
                verdict.text(), tuple(Line(number, text) for number, text in enumerate(verdict.lines, 1))
            ),
            key=verdict.subject,
            cleared_status="committed",
        )
        self._remember(self._memory.with_open(verdict.subject))
        try:
            await self._report.tell(seen)
            self._stored = True
        except OutboxError:  # the outbox says so, and holds the alert until it can be written
            self._stored = False

    def _success(self, name: str) -> None:
        self._remember(replace(self._memory, open=()))
        self._report.gone((), f"{fit(name)} was installed")

    def _remember(self, memory: Memory) -> None:
        self._memory = memory
        self._report.remember(memory.to_text())

    # Being stuck

    def _judge_stuck(self) -> float:
        """Returns after how many seconds a deployment that does not move is stuck."""
        current = self._updates.current
        text = "" if current is None else _running(current).partition("\n")[0]
        self._report.note("deployment", text)
        stuck = self._check.stuck
        left = self._moved + stuck - self._clock.boottime()
        if current is None or not stuck or left > 0:
            if self._report.is_bad(_STUCK_KEY):
                self._report.gone(
                    self._memory.open, "It moves again" if current is not None else "It has ended"
                )
            return left if current is not None and stuck else SAFETY_S
        if not self._report.is_bad(_STUCK_KEY):
            self._report.observe(self._stuck(current))
        return SAFETY_S

    def _stuck(self, update: Update) -> Observation:
        name = fit(update.artifact or update.id) or "unknown"
        still = lifetime(self._clock.boottime() - self._moved)
        return Observation(
            level=self._check.settings.default_alert_level,
            name=STUCK,
            subject=Subject(name, "deployment", "stuck"),
            details=Details(f"{_running(update)}\nit has not moved for {still}"),
            key=_STUCK_KEY,
            cleared_status="moving",
        )

    def _last_writing(self) -> float:
        """When the client wrote last of what is under way, on CLOCK_BOOTTIME."""
        now = self._clock.now()
        with suppress(UnknownError):
            newest = next((file.changed / 1e9 for file in self._updates.logs()), 0.0)
            if 0 < newest <= now.wall:
                return now.boottime - (now.wall - newest)
        return now.boottime


def _running(update: Update) -> str:
    """What runs, for a person."""
    name = fit(update.artifact or update.id) or "an artifact"
    phase = f" in {fit(update.phase)}" if update.phase else ""
    by = f"\ndeployment: {fit(update.id)}" if update.id else "\ninstalled by hand (standalone)"
    return f"{name} is being installed{phase}{by}"


CHECK = DeploymentCheck
