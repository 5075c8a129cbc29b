"""
Whether a deployment failed, where, and what became of the device.

It is judged from its log, its end in the store, and what our state scripts saw. Pure. One deployment has one
verdict, however many of these tell of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from mender_monitor_py.deploymentevents import Event
from mender_monitor_py.deploymentlog import DeploymentLog, fit
from mender_monitor_py.updateprogress import MANAGED, Change, Outcome, Update, changed_device
from mender_monitor_py.updatestate import BROKEN

MOST_JUDGED = 64
LATE_S = 5.0  # an event that comes later than this after a verdict is of another deployment

_PHASES = {
    "update-fetch": "Download", "update-store": "Download", "fetch-install-retry-wait": "Download",
    "update-after-store": "Download_Leave",
    "update-install": "ArtifactInstall", "reboot": "ArtifactReboot", "verify-reboot": "ArtifactReboot",
    "after-reboot": "ArtifactReboot", "update-commit": "ArtifactCommit",
    "update-pre-commit-status-report-retry": "ArtifactCommit", "update-after-first-commit": "ArtifactCommit",
    "update-after-commit": "ArtifactCommit_Leave",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    A deployment *id* (empty: by hand) of *artifact* (empty: not known) is over.

    *phase* is where it failed, or where the server's abort was heard of (*aborted*); *installed* what the
    client says is installed now. *ended* is the wall time, in seconds since the epoch, of one that is found
    later; 0: it was seen.
    """

    success: bool
    id: str
    artifact: str
    outcome: Outcome
    phase: str = ""
    installed: str = ""
    lines: tuple[str, ...] = ()
    aborted: bool = False
    ended: float = 0.0

    @property
    def harmless(self) -> bool:
        """Whether it is as somebody at the server wanted it, and nothing was touched on the device."""
        return self.aborted and self.outcome == Outcome.FAILED

    @property
    def subject(self) -> str:
        """The artifact's name, else the deployment's id."""
        return fit(self.artifact or self.id) or "unknown"

    def text(self) -> str:
        """What a person needs to judge it."""
        what = "the server aborted it" if self.aborted else "it failed"
        where = f" in {fit(self.phase)}" if self.phase else ""
        by = f"deployment: {fit(self.id)}" if self.id else "installed by hand (standalone)"
        if self.ended:
            by += f"; it ended {datetime.fromtimestamp(self.ended, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return "\n".join((f"{self.subject} was not installed: {what}{where}", by, f"then: {self._after()}"))

    def _after(self) -> str:
        now = f"; {fit(self.installed)} is installed" if self.installed else ""
        match self.outcome:
            case Outcome.ROLLED_BACK:
                return f"it was rolled back{now}"
            case Outcome.FAILED:
                return f"nothing had been changed{now}"
            case Outcome.INCONSISTENT:
                return f"it was not rolled back, the device needs help{now}"
        return f"it is not known what became of the device{now}"


@dataclass(frozen=True)
class Memory:
    """
    What is kept for the next start.

    The *judged* ids, each with the run of its log, the *installed* artifact, the *last* verdict by hand, the
    failures that are *open*, each a subject and its outcome, id and artifact of the deployment that *ran*
    last, as far as it was seen, and how one *stood* when it was met or was told as stuck: in which boot, what
    the client had written by then, and over how many boots it has written no more.

    *fresh*: nothing is kept yet, and what lies there is history.
    """

    judged: tuple[tuple[str, str | None], ...] = ()  # None: an earlier version did not keep the run
    installed: str = ""
    last: tuple[str, str, float, float] = ("", "", 0.0, 0.0)  # artifact, boot id, boottime, wall
    open: tuple[tuple[str, str], ...] = ()
    ran: tuple[str, str] = ("", "")
    stood: tuple[str, str, int] = ("", "", 0)
    fresh: bool = field(default=False, compare=False)

    @classmethod
    def from_text(cls, text: str) -> Self:
        try:
            fields = json.loads(text)
            judged = tuple(_pair(one, None) for one in fields["judged"])[-MOST_JUDGED:]
            artifact, boot, boottime, wall = fields["last"]
            last = str(artifact), str(boot), float(boottime), float(wall)
            pairs = (_pair(one, "") for one in fields["open"])
            opened = tuple((subject, outcome or "") for subject, outcome in pairs)[-MOST_JUDGED:]
            deployment, name = fields.get("ran", ("", ""))  # earlier versions have not
            id_of_boot, trace, boots = fields.get("stood", ("", "", 0))
            return cls(
                judged,
                str(fields["installed"]),
                last,
                opened,
                (str(deployment), str(name)),
                (str(id_of_boot), str(trace), int(boots)),
            )
        except (ValueError, TypeError, KeyError):
            return cls(fresh=True)

    def to_text(self) -> str:
        fields = asdict(self)
        del fields["fresh"]
        return json.dumps(fields, separators=(",", ":"))

    def with_judged(self, deployment: str, run: str = "") -> Memory:
        judged = (*(one for one in self.judged if one[0] != deployment), (deployment, run))
        return replace(self, judged=judged[-MOST_JUDGED:], fresh=False)

    def is_judged(self, deployment: str, run: str = "") -> bool:
        """
        Whether there is a verdict of *run* of *deployment*.

        An empty run: of any, as for a log that does not tell its runs apart.
        """
        if (deployment, None) in self.judged:
            return True
        return any(one == deployment and run in ("", last) for one, last in self.judged)

    def with_open(self, subject: str, outcome: str) -> Memory:
        subjects = (*(one for one in self.open if one[0] != subject), (subject, outcome))
        return replace(self, open=subjects[-MOST_JUDGED:])

    def artifact_of(self, deployment: str) -> str:
        """The artifact of a managed *deployment* that was seen running; empty: not known."""
        return self.ran[1] if self.ran[0] == deployment else ""

    def completed(self, event: Event) -> Event:
        """*event* with the id of the deployment that was seen running, where its script did not find one."""
        if event.mode != MANAGED or event.deployment or not event.artifact or event.artifact != self.ran[1]:
            return event
        return replace(event, deployment=self.ran[0])

    def has_judged(self, update: Update) -> bool:
        """Whether there is a verdict of *update*: one by hand has none from before it began."""
        if update.id:
            return self.is_judged(update.id)
        artifact, boot, boottime, _ = self.last
        return (artifact, boot) == (
            update.artifact,
            update.since.boot_id,
        ) and boottime > update.since.boottime

    def is_late(self, event: Event) -> bool:
        """Whether *event* belongs to what was judged by hand last."""
        artifact, boot, boottime, wall = self.last
        if event.artifact and event.artifact != artifact:
            return False
        if event.boot_id == boot:
            return event.boottime <= boottime + LATE_S
        return event.wall <= wall + LATE_S


def _pair(value: object, second: str | None) -> tuple[str, str | None]:
    """What is kept in pairs; earlier versions have the first of each alone."""
    if isinstance(value, str):
        return value, second
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("it is no pair")
    return str(value[0]), None if value[1] is None else str(value[1])


def by_log(
    deployment: str, log: DeploymentLog, seen: Change | None, installed: str, before: str = ""
) -> Verdict:
    """
    The verdict of a managed deployment whose log has its end; *seen* is what the store showed of it.

    *before* is what was installed at the last verdict.
    """
    artifact = (seen.update.artifact if seen is not None else "") or log.artifact
    if log.success:
        name = artifact or ("" if installed.endswith(BROKEN) else installed)
        return Verdict(True, deployment, name, Outcome.COMMITTED, installed=installed)
    phase = log.phase or (seen.failed_in if seen is not None else "")
    if not artifact and installed.endswith(BROKEN) and installed != before and changed_device(phase):
        artifact = installed.removesuffix(BROKEN)
    if artifact and installed == artifact + BROKEN:
        outcome = Outcome.INCONSISTENT
    elif seen is not None and seen.outcome is not None and seen.outcome != Outcome.UNKNOWN:
        outcome = seen.outcome
    elif log.rolled_back or changed_device(phase):
        outcome = Outcome.ROLLED_BACK
    else:
        outcome = Outcome.FAILED if phase else Outcome.UNKNOWN
    return Verdict(
        False, deployment, artifact, outcome, _PHASES.get(phase, phase), installed, log.lines, log.aborted
    )


def without_end(
    deployment: str,
    log: DeploymentLog | None,
    seen: Change | None,
    events: Sequence[Event],
    installed: str,
    memory: Memory,
) -> Verdict | None:
    """
    The verdict of a managed deployment that is over, and whose *log* has no end.

    It left none, or the client logs errors only. *installed* is empty for one that others came after. None:
    nothing tells that it failed, or was committed.
    """
    outcome = seen.outcome if seen is not None and seen.outcome is not None else Outcome.UNKNOWN
    artifact = seen.update.artifact if seen is not None else ""
    artifact = artifact or next((event.artifact for event in events if event.artifact), "")
    artifact, before = artifact or memory.artifact_of(deployment), memory.installed
    broken = bool(installed) and installed == artifact + BROKEN
    if not artifact and installed.endswith(BROKEN) and installed != before:
        artifact, broken = installed.removesuffix(BROKEN), True
    if outcome == Outcome.COMMITTED:
        return Verdict(True, deployment, artifact, outcome, installed=installed)
    log = log or DeploymentLog()
    failing = [event for event in events if event.failing]
    if outcome == Outcome.UNKNOWN:
        if not (failing or log.failed or log.aborted or broken):
            return None
        new = installed == artifact if artifact else installed != before
        if new and installed and not installed.endswith(BROKEN):
            return None  # it was an error on the way to a success

    phase = next((event.state for event in failing if event.action == "Error"), "") or log.phase
    if not phase and seen is not None and (changed_device(seen.failed_in) or outcome == Outcome.FAILED):
        phase = seen.failed_in
    downloaded = any(event.state == "Download" and event.action == "Leave" for event in events)
    if broken:
        outcome = Outcome.INCONSISTENT
    elif outcome != Outcome.UNKNOWN:
        pass
    elif changed_device(phase) or (downloaded and installed):
        outcome = Outcome.ROLLED_BACK  # else the client had marked the name
    elif phase or (seen is not None and not seen.update.installing and not downloaded):
        outcome, phase = Outcome.FAILED, phase or (seen.update.phase if seen is not None else "")
    phase = _PHASES.get(phase, phase)
    return Verdict(False, deployment, artifact, outcome, phase, installed, log.lines, log.aborted)


def by_hand(change: Change | None, events: Sequence[Event], installed: str, left: str = "") -> Verdict | None:
    """
    The verdict of what somebody installed by hand: its end in the store, if that was seen, and the scripts'
    *events*. *left* is the artifact whose work tree was left behind: the client was cut off.

    None: it did not fail, as far as that can be told, nor was it committed.
    """
    failing = [event for event in events if event.failing]
    artifact = change.update.artifact if change is not None else ""
    artifact = artifact or next((event.artifact for event in reversed(events) if event.artifact), "")
    outcome = change.outcome if change is not None and change.outcome is not None else Outcome.UNKNOWN
    if outcome == Outcome.UNKNOWN and not failing and any(event.committed for event in events):
        outcome = Outcome.COMMITTED
    if outcome == Outcome.COMMITTED:
        return Verdict(True, "", artifact, outcome, installed=installed)
    cut_off = bool(artifact) and artifact == left
    downloaded = any(event.state != "Download" or event.action == "Leave" for event in events)
    failed = change.failed if change is not None else cut_off and downloaded
    if not failing and not failed:
        return None
    phase = next((event.state for event in failing if event.action == "Error"), "")
    phase = phase or (change.failed_in if change is not None else "")
    if artifact and installed == artifact + BROKEN:
        outcome = Outcome.INCONSISTENT
    elif phase == "Download":
        outcome = Outcome.FAILED
    elif cut_off:
        outcome, phase = Outcome.UNKNOWN, phase or ("ArtifactInstall" if downloaded else "")
    elif downloaded:
        outcome, phase = Outcome.ROLLED_BACK, phase or "ArtifactInstall"
    deployment = next((event.deployment for event in events if event.deployment), "")
    return Verdict(False, deployment, artifact, outcome, phase, installed)


def by_name(installed: str) -> Verdict:
    """The client calls what is installed inconsistent, and nothing else told of it."""
    return Verdict(False, "", installed.removesuffix(BROKEN), Outcome.INCONSISTENT, installed=installed)
