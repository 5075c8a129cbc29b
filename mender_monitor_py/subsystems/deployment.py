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

from mender_monitor_py import deploymentevents, deploymentjudge
from mender_monitor_py.deploymentevents import Event
from mender_monitor_py.deploymentjudge import Memory, Verdict
from mender_monitor_py.deploymentlog import DeploymentLog, fit
from mender_monitor_py.duration import seconds
from mender_monitor_py.errors import OutboxError, UnknownError
from mender_monitor_py.host.deploymentlogs import LAST, LogFile
from mender_monitor_py.host.deploymentlogs import read as read_log
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import Details, Line, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.deploymentstandstill import SAFETY_S, Standstill, Stood
from mender_monitor_py.subsystems.deploymentwords import Word, Words
from mender_monitor_py.subsystems.expected import wait
from mender_monitor_py.updateprogress import MANAGED, STANDALONE, Change, Outcome, Update, begins
from mender_monitor_py.updatestate import BROKEN

FAILED = "Deployment failed"
SETTLE_S = 3.0  # a script's word may come before the client's own, or after it
FOUND_LATER_S = 60.0  # an alert that comes later than this after the end says when that was
STORED_S = 60.0  # from look to look while the outbox cannot be written

_STUCK = Field(
    "DEPLOYMENT_STUCK", seconds, "one that does not move for this long is stuck; 0: never", default="2h"
)

log = logging.getLogger(__name__)


class DeploymentCheck(Check):
    """A deployment of the update client failed, or is stuck."""

    subsystem = "deployment"
    summary = "deployments that fail or get stuck"
    fields = (_STUCK,)
    alone = True

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
        self._report = report
        self._memory = Memory.from_text(report.memory)
        self._wake = asyncio.Event()
        self._words = Words(host.paths.deployment_spool, host.inotify, self._wake.set)
        self._awaited = 0.0  # until when they are
        self._ended: list[Change] = []
        self._known_logs: dict[str, tuple[int, int]] = {}
        self._quiet: dict[str, DeploymentLog] = {}  # those that will have no end, the oldest first
        self._again: set[str] = set()  # the server tries these again, after a verdict
        self._newest = ""
        self._undo = self._updates.listen(self._changed, self._stirred)
        level, stood = check.settings.default_alert_level, self._memory.stood
        self._standstill = Standstill(
            check.stuck, level, host.updates, host.clock, report, stood, self._note_standing
        )
        if self._updates.current is not None:
            self._note_running(self._updates.current)

    async def run(self) -> None:
        while True:
            self._wake.clear()
            self._words.watch()
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
            patience = min(patience, self._standstill.judge([subject for subject, _ in self._memory.open]))
            self._words.judged((), durable=self._report.stored)
            if self._words.kept:
                patience = min(patience, STORED_S)
            await wait(self._wake, patience)

    def close(self) -> None:
        self._undo()
        self._words.close()

    # What is told

    def _changed(self, change: Change) -> None:
        update = change.update
        self._standstill.changed(change)
        self._note_running(update)
        if change.outcome is not None:
            self._ended.append(change)
        elif update.id and begins(update) and self._memory.has_judged(update):
            self._again.add(update.id)
        self._wake.set()

    def _stirred(self) -> None:
        self._standstill.stirred()
        self._wake.set()

    # Judging

    async def _judge_logs(self) -> None:
        """
        Each log that has its end, and was not judged before: the oldest first. Raises UnknownError.

        The log of a deployment that the server tries again grows, or is made anew.
        """
        files = self._updates.logs()
        self._known_logs = {
            file.deployment: self._known_logs[file.deployment]
            for file in files
            if file.deployment in self._known_logs
        }
        self._newest = files[0].deployment if files else ""
        fresh, unread = self._memory.fresh, None
        for file in reversed(files):
            if self._is_same(file):
                continue
            try:
                grows = file.deployment in self._known_logs
                found = read_log(file, LAST) if grows else None
                if found is None or found.quiet or found.success is not None:
                    found = read_log(file)
            except UnknownError as error:  # it is tried again; the others are judged
                unread = error
                continue
            self._known_logs[file.deployment] = file.changed, file.size
            self._quiet.pop(file.deployment, None)
            if found.success is None:
                if found.quiet and not self._is_judged(file.deployment):
                    self._quiet[file.deployment] = found
                continue
            if self._memory.is_judged(file.deployment, found.run):
                continue
            seen = self._take(file.deployment)
            self._note_judged(file.deployment, found.run)
            if not fresh or seen is not None:
                installed = self._updates.artifact if file is files[0] else ""  # by later ones
                before = self._memory.installed
                found = replace(found, artifact=found.artifact or self._memory.artifact_of(file.deployment))
                verdict = deploymentjudge.by_log(file.deployment, found, seen, installed, before)
                await self._tell(replace(verdict, ended=self._ended_before(file)))
        if unread is not None:
            raise unread
        if fresh:
            # A device that gets this check has its history, which is no news.
            current = self._updates.current
            for deployment in list(self._quiet):
                if current is None or current.id != deployment:
                    del self._quiet[deployment]
                    self._note_judged(deployment)
            self._remember(replace(self._memory, installed=self._updates.artifact, fresh=False))
            if not self._updates.unknown:
                self._words.forget()

    def _is_judged(self, deployment: str) -> bool:
        """Whether there is a verdict of the last time that it ran, as far as no log tells."""
        return self._memory.is_judged(deployment) and deployment not in self._again

    def _is_same(self, file: LogFile) -> bool:
        return self._known_logs.get(file.deployment) == (file.changed, file.size)

    def _ended_before(self, file: LogFile) -> float:
        """When the client wrote last into a log that is found long after that, as wall time; else 0."""
        wall = file.changed / 1e9
        return wall if self._clock.now().wall - wall > FOUND_LATER_S else 0.0

    def _take(self, deployment: str) -> Change | None:
        """What the store showed of a deployment: its end, or where it is now."""
        for change in self._ended:
            if change.update.id == deployment:
                self._ended.remove(change)
                return change
        current = self._updates.current
        return Change(current) if current is not None and current.id == deployment else None

    async def _judge_the_rest(self) -> float:
        """What has no log, or one without an end. Returns after how many seconds there may be more."""
        words = self._words.read(self._memory.completed, self._is_told)
        installed, left = self._updates.artifact, self._updates.left
        of_logs = [word for word in words if word.event.deployment in self._quiet]
        words = [word for word in words if word not in of_logs]
        events = [word.event for word in words]
        if (patience := self._awaits_scripts(events)) > 0:
            return patience
        changes, self._ended = self._ended, []
        for change in changes:
            if self._memory.has_judged(change.update) and change.update.id not in self._again:
                continue
            if change.update.mode == STANDALONE:
                verdict = deploymentjudge.by_hand(change, events, installed, left)
                self._note_last(change.update.artifact)
                if verdict is not None:
                    await self._tell(verdict)
            else:
                await self._judge_without_end(change.update.id, change, of_logs, installed)
        patience = await self._judge_quiet(of_logs, installed)
        by_hand = any(change.update.mode == STANDALONE for change in changes)
        if not events or by_hand:
            self._words.judged(words, durable=self._report.stored)
            return patience if patience < SAFETY_S else await self._judge_name(installed)
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
                    self._note_judged(verdict.id)
                await self._tell(verdict)
        self._words.judged(words, durable=self._report.stored)
        return patience if patience < SAFETY_S else await self._judge_name(installed)

    async def _judge_quiet(self, words: list[Word], installed: str) -> float:
        """The logs that have no end, though nothing runs any more. Returns like the above."""
        patience = SAFETY_S
        if not self._updates.settled or self._updates.unknown:
            return patience
        for deployment in list(self._quiet):
            # The client makes the log before it says that something runs.
            age = self._clock.now().wall - self._known_logs[deployment][0] / 1e9
            if 0 <= age < SETTLE_S:
                patience = min(patience, SETTLE_S - age)
                continue
            last = installed if deployment == self._newest else ""
            await self._judge_without_end(deployment, None, words, last)
        return patience

    async def _judge_without_end(
        self, deployment: str, seen: Change | None, words: list[Word], installed: str
    ) -> None:
        current = self._updates.current
        runs = current is not None and current.id == deployment
        if seen is not None and seen.outcome == Outcome.UNKNOWN and (runs or self._updates.unknown):
            return  # the store could not be read for a while
        log_now = self._log_of(deployment)
        run = log_now.run if log_now is not None else ""
        if log_now is not None and log_now.success is not None and self._memory.is_judged(deployment, run):
            return  # its log came first
        own = [word for word in words if word.event.deployment == deployment]
        found = self._quiet.pop(deployment, None)
        events = [word.event for word in own]
        verdict = deploymentjudge.without_end(deployment, found, seen, events, installed, self._memory)
        silent = found is not None and not (found.failed or found.aborted or own)
        if found is not None and silent and verdict is None and seen is None and deployment == self._newest:
            # The newer client makes the log first, and then runs scripts that may take long.
            self._quiet[deployment] = found
            return
        if found is not None or verdict is not None:
            self._note_judged(deployment, run)
        if verdict is not None:
            await self._tell(verdict)
        self._words.judged(own, durable=self._report.stored)

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
            elif (fit(name), str(Outcome.INCONSISTENT)) not in self._memory.open:
                await self._tell(deploymentjudge.by_name(installed))
            self._remember(self._memory)
        return SAFETY_S

    def _is_told(self, event: Event) -> bool:
        """Whether the log tells more."""
        deployment = event.deployment
        known = deployment in self._known_logs and deployment not in self._quiet
        return event.mode == MANAGED and (known or self._is_judged(deployment))

    def _log_of(self, deployment: str) -> DeploymentLog | None:
        with suppress(UnknownError):
            for file in self._updates.logs():
                if file.deployment == deployment:
                    return read_log(file)
        return None

    def _age(self, event: Event) -> float:
        now = self._clock.now()
        return now.boottime - event.boottime if event.boot_id == now.boot_id else SETTLE_S

    def _note_running(self, update: Update) -> None:
        """Its log does not have the artifact's name, and may be all that is left of it after a reboot."""
        ran = update.id, update.artifact
        if all(ran) and self._memory.ran != ran and not self._memory.fresh:
            self._remember(replace(self._memory, ran=ran))

    def _note_standing(self, stood: Stood) -> None:
        self._memory = replace(self._memory, stood=stood)
        if not self._memory.fresh:
            self._remember(self._memory)

    def _note_judged(self, deployment: str, run: str = "") -> None:
        self._memory = self._memory.with_judged(deployment, run)
        self._again.discard(deployment)

    def _note_last(self, artifact: str) -> None:
        now = self._clock.now()
        self._memory = replace(self._memory, last=(artifact, now.boot_id, now.boottime, now.wall))

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
        self._remember(self._memory.with_open(verdict.subject, str(verdict.outcome)))
        with suppress(OutboxError):  # the outbox says so, and holds the alert until it can be written
            await self._report.tell(seen)

    def _success(self, name: str) -> None:
        self._remember(replace(self._memory, open=()))
        self._report.gone((), f"{fit(name)} was installed")

    def _remember(self, memory: Memory) -> None:
        self._memory = memory
        self._report.remember(memory.to_text())


CHECK = DeploymentCheck
