"""
Where the update client is: the deployment that runs, and how one ended.

Pure. What the store says counts for what runs; how it ended is in the deployment's log, else in what was seen
of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from mender_monitor_py.deploymentlog import DeploymentLog
from mender_monitor_py.model import Stamp
from mender_monitor_py.updatestate import BROKEN, Managed, Standalone, Stored

MANAGED, STANDALONE = "managed", "standalone"

# Phases in which nothing of the device was changed yet, and those in which all is over but the telling.
_BEFORE = frozenset(
    (
        "init", "idle", "authorize", "authorize-wait", "inventory-update", "check-wait", "update-check",
        "update-fetch", "update-store", "update-after-store", "fetch-install-retry-wait", "update-verify",
    )
)  # fmt: skip
_AFTER = frozenset(
    ("update-status-report", "update-retry-report", "status-report-error", "error", "finished")
)
# These follow phases of both kinds. In the first, the older client waits for a person or the server.
_EITHER = ("mender-update-control", "update-error", "cleanup")
_ROLLBACK = ("rollback", "ArtifactRollback")


class Outcome(StrEnum):
    """
    How a deployment ended.

    FAILED: before it changed anything. INCONSISTENT: it failed, and was not rolled back.
    """

    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"
    INCONSISTENT = "inconsistent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Update:
    """
    A deployment that runs.

    *id* is empty in standalone mode, *artifact* until its header was read. *phase* is the client's word,
    *since* when it began, as well as that is known. *installing*: from the first state on that changes the
    device.
    """

    id: str
    artifact: str
    phase: str
    mode: str
    since: Stamp
    installing: bool
    payload_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """
    *update* began or moved (*outcome* None), or has ended: then it is as it was last.

    *failed_in* is the phase in which it failed, as far as the store showed it. *failed*: it ended because it
    failed; one by hand that had waited for a commit may have been rolled back because somebody asked for it.
    """

    update: Update
    outcome: Outcome | None = None
    failed_in: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """The work tree of the module that installs: the artifact's name, and its payload's type."""

    artifact: str = ""
    payload_type: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What was seen of a deployment so far, beside what it is.

    *failed_in* is the phase before it went into an error state; *rolling_back*: a rollback was seen;
    *installed*: it got as far as changing the device; *waited*: by hand, it waited for a commit or a
    rollback; *committed*: by hand, the newer client has committed it; *failed*: the client said that it
    failed. *before* is the artifact that was installed when it began.
    """

    update: Update
    before: str = ""
    failed_in: str = ""
    rolling_back: bool = False
    installed: bool = False
    waited: bool = False
    committed: bool = False
    failed: bool = False


def advance(before: Seen | None, stored: Stored, tree: Tree | None, now: Stamp) -> Seen | None:
    """
    The deployment that runs *now*, as the store and the module's work tree have it; None when none does.

    *before* is what ran a moment ago: the same one, if identity and mode are the same.
    """
    if stored.managed is not None and stored.managed.phase not in _AFTER:
        update = _managed(stored.managed, tree, now)
    elif stored.managed is None and (stored.standalone is not None or tree is not None):
        update = _standalone(stored.standalone, tree, now)
    else:
        return None
    if before is None or not same(before.update, update):
        seen = Seen(update, stored.artifact)
    else:
        kept = before.update
        artifact, types = update.artifact or kept.artifact, update.payload_types or kept.payload_types
        installing = kept.installing if update.phase.startswith(_EITHER) else update.installing
        update = replace(
            update, since=kept.since, artifact=artifact, payload_types=types, installing=installing
        )
        seen = replace(before, update=update)
    return _noted(seen, before, stored.standalone)


def same(one: Update, other: Update) -> bool:
    """Whether these are one deployment. By hand, an artifact's name may be known a moment later only."""
    if (one.mode, one.id) != (other.mode, other.id):
        return False
    return bool(one.id) or not (one.artifact and other.artifact) or one.artifact == other.artifact


def outcome(seen: Seen, stored: Stored, log: DeploymentLog | None) -> Outcome:
    """How the deployment ended that was *seen* last. *log* is its own; None: it has none."""
    update = seen.update
    name = update.artifact
    if name and stored.artifact == name + BROKEN:
        return Outcome.INCONSISTENT
    if log is not None and log.success is not None:
        return Outcome.COMMITTED if log.success else failure(seen, log)
    if name and stored.artifact == name != seen.before:
        return Outcome.COMMITTED
    if seen.rolling_back or seen.failed_in or seen.failed:
        return failure(seen, log)
    if name and stored.artifact == name and seen.committed:
        return Outcome.COMMITTED
    if update.mode == STANDALONE and name and stored.artifact != name:
        # It left without being committed: a commit writes the name, also where there was none before. If it
        # waited for somebody, that may have been asked for.
        return Outcome.ROLLED_BACK if seen.waited or seen.installed else Outcome.FAILED
    return Outcome.UNKNOWN


def ended(seen: Seen, stored: Stored, log: DeploymentLog | None) -> Change:
    """The end of the deployment that was *seen* last."""
    how = outcome(seen, stored, log)
    bad = how in (Outcome.FAILED, Outcome.ROLLED_BACK)
    asked_for = seen.update.mode == STANDALONE and seen.waited
    failed = how == Outcome.INCONSISTENT or seen.failed or (bad and not asked_for)
    return Change(seen.update, how, seen.failed_in, failed and how != Outcome.COMMITTED)


def failure(seen: Seen, log: DeploymentLog | None) -> Outcome:
    """A failed one whose artifact's name is not marked: it was rolled back, or had changed nothing."""
    phase = seen.failed_in or (log.phase if log is not None else "")
    if seen.rolling_back or seen.installed or (log is not None and log.rolled_back) or changed_device(phase):
        return Outcome.ROLLED_BACK
    return Outcome.FAILED


def begins(update: Update) -> bool:
    """Whether nothing of the device was changed yet."""
    return update.phase in _BEFORE


def changed_device(phase: str) -> bool:
    """Whether the device is another than before once *phase* has begun."""
    return bool(phase) and phase not in _BEFORE and not phase.startswith(("Download", "Sync", "Provide"))


def _noted(seen: Seen, before: Seen | None, standalone: Standalone | None) -> Seen:
    update = seen.update
    failing = update.phase in ("update-error", "ArtifactFailure_Enter") or update.phase.startswith(_ROLLBACK)
    if failing and not seen.failed_in and before is not None:
        seen = replace(seen, failed_in=before.update.phase)
    return replace(
        seen,
        rolling_back=seen.rolling_back or update.phase.startswith(_ROLLBACK),
        installed=seen.installed or _installed(update),
        waited=seen.waited or standalone is not None,
        committed=seen.committed or (standalone is not None and update.phase == "ArtifactCommit_Leave"),
        failed=seen.failed or (standalone is not None and standalone.failed),
    )


def _installed(update: Update) -> bool:
    return update.mode == MANAGED and update.installing and not update.phase.startswith(_EITHER)


def _managed(state: Managed, tree: Tree | None, now: Stamp) -> Update:
    return Update(
        id=state.id,
        artifact=state.artifact or (tree.artifact if tree is not None else ""),
        phase=state.phase,
        mode=MANAGED,
        since=now,
        installing=state.phase not in _BEFORE,
        payload_types=state.payload_types,
    )


def _standalone(state: Standalone | None, tree: Tree | None, now: Stamp) -> Update:
    artifact = (state.artifact if state is not None else "") or (tree.artifact if tree is not None else "")
    types = state.payload_types if state is not None else ()
    if not types and tree is not None and tree.payload_type:
        types = (tree.payload_type,)
    phase = (state.phase or "ArtifactCommit_Enter") if state is not None else ""
    return Update("", artifact, phase, STANDALONE, now, installing=True, payload_types=types)
