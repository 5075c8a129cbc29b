"""One verdict a deployment, from whatever tells of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import deploymentevents, deploymentjudge, updateprogress
from mender_monitor_py.deploymentevents import Event
from mender_monitor_py.deploymentjudge import LATE_S, MOST_JUDGED, Memory
from mender_monitor_py.deploymentlog import DeploymentLog
from mender_monitor_py.model import Stamp
from mender_monitor_py.updateprogress import MANAGED, STANDALONE, Change, Outcome, Seen, Tree, Update, advance
from mender_monitor_py.updatestate import Managed, Standalone, Stored

NOW = Stamp("boot", 100.0, 1_800_000_000.0, known=True)
BY_SERVER = Update("d1", "release-2", "update-install", MANAGED, NOW, installing=True)
BY_HAND = Update("", "release-2", "", STANDALONE, NOW, installing=True)


def event(name: str, artifact: str = "release-2", at: float = 100.0) -> Event:
    state, _, action = name.partition("_")
    return Event(state, action, "standalone", "", artifact, "boot", at, 1_800_000_000.0)


def test_what_a_script_says_without_an_id_is_of_the_deployment_that_ran() -> None:
    """
    Of the same artifact and by the server, and only where the script found no id itself.
    """
    memory = Memory(ran=("d1", "release-2"))
    word = replace(event("ArtifactInstall_Error"), mode=MANAGED)
    assert memory.completed(word).deployment == "d1"
    assert memory.completed(replace(word, deployment="d0")).deployment == "d0"
    for other in (
        replace(word, artifact="release-3"),
        replace(word, mode=STANDALONE),
        replace(word, artifact=""),
    ):
        assert memory.completed(other) == other
    assert Memory().completed(replace(word, artifact="")).deployment == ""


def test_the_mark_of_an_older_failure_is_not_taken_for_this_ones() -> None:
    log = DeploymentLog(success=False, phase="update-install")
    old = "release-0_INCONSISTENT"
    found = deploymentjudge.by_log("d1", log, None, old, before=old)
    assert (found.subject, found.outcome) == ("d1", Outcome.ROLLED_BACK)


@pytest.mark.parametrize(
    ("log", "seen", "installed", "outcome", "phase"),
    [
        (DeploymentLog(success=True), None, "release-2", Outcome.COMMITTED, ""),
        (
            DeploymentLog(success=False, phase="update-install"),
            None,
            "release-1",
            Outcome.ROLLED_BACK,
            "ArtifactInstall",
        ),
        (DeploymentLog(success=False, phase="update-store"), None, "release-1", Outcome.FAILED, "Download"),
        (DeploymentLog(success=False), None, "release-1", Outcome.UNKNOWN, ""),
        (
            DeploymentLog(success=False, artifact="release-2"),
            None,
            "release-2_INCONSISTENT",
            Outcome.INCONSISTENT,
            "",
        ),
        (
            DeploymentLog(success=False, phase="reboot"),
            None,
            "release-2_INCONSISTENT",
            Outcome.INCONSISTENT,
            "ArtifactReboot",
        ),
        # The newer client names the scripts so.
        (DeploymentLog(success=False, phase="SyncLeave"), None, "release-1", Outcome.FAILED, "SyncLeave"),
        (DeploymentLog(success=False, phase="DownloadEnter"), None, "r", Outcome.FAILED, "DownloadEnter"),
        (
            DeploymentLog(success=False, phase="ArtifactRebootLeave"),
            None,
            "release-1",
            Outcome.ROLLED_BACK,
            "ArtifactRebootLeave",
        ),
        # An older failure left the name; this one changed nothing.
        (
            DeploymentLog(success=False, phase="update-store"),
            None,
            "release-0_INCONSISTENT",
            Outcome.FAILED,
            "Download",
        ),
        (
            DeploymentLog(success=False),
            Change(BY_SERVER, Outcome.ROLLED_BACK, "update-commit", failed=True),
            "release-1",
            Outcome.ROLLED_BACK,
            "ArtifactCommit",
        ),
    ],
)
def test_by_its_log(log, seen, installed, outcome, phase) -> None:
    found = deploymentjudge.by_log("d1", log, seen, installed)
    assert (found.outcome, found.phase) == (outcome, phase)
    assert found.success == (outcome == Outcome.COMMITTED)
    assert found.text()


QUIET = DeploymentLog(quiet=True)
BAD = DeploymentLog(quiet=True, failed=True, lines=("error: it failed",))
DOWNLOADS = replace(BY_SERVER, phase="update-store", installing=False)


@pytest.mark.parametrize(
    ("log", "seen", "events", "installed", "wanted"),
    [
        # Nothing was seen of it but what it left.
        (QUIET, None, [], "release-1", None),
        (QUIET, None, ["Download_Leave"], "release-1", None),
        (BAD, None, ["Download_Leave"], "release-1", (Outcome.ROLLED_BACK, "")),
        (BAD, None, ["Download_Leave"], "release-2_INCONSISTENT", (Outcome.INCONSISTENT, "")),
        (BAD, None, [], "release-9_INCONSISTENT", (Outcome.INCONSISTENT, "")),
        (BAD, None, ["Download_Leave"], "release-2", None),
        (BAD, None, [], "release-3", None),
        (BAD, None, [], "release-1", (Outcome.UNKNOWN, "")),
        (BAD, None, ["Download_Leave"], "", (Outcome.UNKNOWN, "")),
        (QUIET, None, ["Download_Error"], "release-1", (Outcome.FAILED, "Download")),
        (replace(BAD, phase="update-store"), None, [], "release-1", (Outcome.FAILED, "Download")),
        (replace(BAD, phase="update-commit"), None, [], "release-1", (Outcome.ROLLED_BACK, "ArtifactCommit")),
        (QUIET, None, ["ArtifactInstall_Error"], "release-1", (Outcome.ROLLED_BACK, "ArtifactInstall")),
        # The store showed it.
        (QUIET, Change(BY_SERVER, Outcome.COMMITTED), [], "release-2", (Outcome.COMMITTED, "")),
        (QUIET, Change(DOWNLOADS, Outcome.UNKNOWN), [], "release-1", None),
        (BAD, Change(DOWNLOADS, Outcome.UNKNOWN), [], "release-1", (Outcome.FAILED, "Download")),
        (
            None,
            Change(BY_SERVER, Outcome.ROLLED_BACK, "update-commit"),
            [],
            "release-1",
            (Outcome.ROLLED_BACK, "ArtifactCommit"),
        ),
        # It was missed that it had begun to install.
        (
            BAD,
            Change(BY_SERVER, Outcome.ROLLED_BACK, "update-after-store"),
            [],
            "release-1",
            (Outcome.ROLLED_BACK, ""),
        ),
        (
            replace(QUIET, aborted=True),
            Change(DOWNLOADS, Outcome.UNKNOWN),
            [],
            "release-1",
            (Outcome.FAILED, "Download"),
        ),
    ],
)
def test_its_log_has_no_end(log, seen, events, installed, wanted) -> None:
    memory = Memory(installed="release-1")
    found = deploymentjudge.without_end("d1", log, seen, [event(name) for name in events], installed, memory)
    assert (found and (found.outcome, found.phase)) == wanted
    if found is not None and log is not None:
        assert found.lines == log.lines
        assert found.harmless == log.aborted
        assert found.success == (found.outcome == Outcome.COMMITTED)


def test_its_log_has_no_end_and_the_name_was_seen_before() -> None:
    memory = Memory(installed="release-1", ran=("d1", "release-2"))
    found = deploymentjudge.without_end("d1", BAD, None, [], "release-1", memory)
    assert found is not None
    assert found.subject == "release-2"
    # What is installed is of one that came before it.
    assert deploymentjudge.without_end("d1", BAD, None, [], "release-3", memory) is not None


@pytest.mark.parametrize(
    ("change", "events", "installed", "wanted"),
    [
        (Change(BY_HAND, Outcome.COMMITTED), ["Download_Leave"], "release-2", (True, Outcome.COMMITTED, "")),
        (
            Change(BY_HAND, Outcome.FAILED, failed=True),
            ["Download_Error"],
            "release-1",
            (False, Outcome.FAILED, "Download"),
        ),
        (Change(BY_HAND, Outcome.FAILED, failed=True), [], "release-1", (False, Outcome.FAILED, "")),
        (
            Change(BY_HAND, Outcome.FAILED, failed=True),
            ["Download_Leave"],
            "release-1",
            (False, Outcome.ROLLED_BACK, "ArtifactInstall"),
        ),
        (Change(BY_HAND, Outcome.ROLLED_BACK), [], "release-1", None),
        (
            Change(BY_HAND, Outcome.ROLLED_BACK),
            ["ArtifactCommit_Error", "ArtifactFailure_Enter"],
            "release-1",
            (False, Outcome.ROLLED_BACK, "ArtifactCommit"),
        ),
        (Change(BY_HAND, Outcome.UNKNOWN), [], "release-2", None),
        (None, ["Download_Leave"], "release-2", None),
        (None, ["Download_Error"], "release-1", (False, Outcome.FAILED, "Download")),
        (
            None,
            ["ArtifactFailure_Enter"],
            "release-2_INCONSISTENT",
            (False, Outcome.INCONSISTENT, ""),
        ),
    ],
)
def test_by_hand(change, events, installed, wanted) -> None:
    found = deploymentjudge.by_hand(change, [event(name) for name in events], installed)
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert (found.success, found.outcome, found.phase) == wanted
        assert found.subject == "release-2"


@pytest.mark.parametrize(
    ("change", "events", "left", "wanted"),
    [
        (None, ["Download_Leave"], "release-2", (Outcome.UNKNOWN, "ArtifactInstall")),
        (
            Change(BY_HAND, Outcome.FAILED, failed=True),
            ["Download_Leave"],
            "release-2",
            (Outcome.UNKNOWN, "ArtifactInstall"),
        ),
        (Change(BY_HAND, Outcome.FAILED, failed=True), [], "release-2", (Outcome.UNKNOWN, "")),
        (None, ["Download_Error"], "release-2", (Outcome.FAILED, "Download")),
        # It had not begun to install, or the tree is that of a header which was refused.
        (None, ["Download_Enter"], "release-2", None),
        (None, ["Download_Leave"], "release-3", None),
    ],
)
def test_by_hand_and_cut_off(change, events, left, wanted) -> None:
    found = deploymentjudge.by_hand(change, [event(name) for name in events], "release-1", left)
    assert (found and (found.outcome, found.phase)) == wanted


@given(st.text(), st.text(), st.text(), st.text())
def test_whatever_things_are_called_the_text_has_three_lines(
    deployment: str, artifact: str, phase: str, installed: str
) -> None:
    """
    The server, the artifact and the client's store give the names: none is a line of its own, or obeyed.
    """
    verdict = deploymentjudge.Verdict(
        False, deployment, artifact, Outcome.ROLLED_BACK, phase=phase, installed=installed
    )
    lines = verdict.text().split("\n")
    assert len(lines) == 3 and all(line.isprintable() for line in lines)


def test_the_memory_is_bounded_and_survives() -> None:
    memory = Memory(installed="release-1", last=("release-2", "boot", 1.5, 2.5))
    for number in range(3 * MOST_JUDGED):
        memory = memory.with_judged(f"d{number}").with_open(f"s{number}", "failed")
    assert len(memory.judged) == len(memory.open) == MOST_JUDGED
    assert Memory.from_text(memory.to_text()) == memory
    assert not Memory.from_text(memory.to_text()).fresh


@given(st.text())
def test_any_text_is_a_memory(text: str) -> None:
    assert Memory.from_text(text).fresh


def test_what_comes_late_belongs_to_the_last_verdict() -> None:
    memory = Memory(last=("release-2", "boot", 100.0, 1_800_000_000.0))
    assert memory.is_late(event("ArtifactFailure_Leave", at=101))
    assert not memory.is_late(event("ArtifactFailure_Leave", at=101 + LATE_S))
    assert not memory.is_late(event("ArtifactFailure_Leave", "release-3"))
    after_boot = replace(event("ArtifactFailure_Leave", at=3), boot_id="next")
    assert memory.is_late(replace(after_boot, wall=1_800_000_000.0 + LATE_S))
    assert not memory.is_late(replace(after_boot, wall=1_800_000_001.0 + LATE_S))


def test_a_verdict_by_hand_is_of_what_began_before_it() -> None:
    memory = Memory(last=("release-2", "boot", 100.0, 1_800_000_000.0))
    assert memory.has_judged(replace(BY_HAND, since=replace(NOW, boottime=99.0)))
    assert not memory.has_judged(replace(BY_HAND, since=replace(NOW, boottime=101.0)))
    assert not memory.has_judged(replace(BY_HAND, since=replace(NOW, boot_id="next", boottime=99.0)))


def test_a_verdict_of_one_run_is_none_of_another() -> None:
    memory = Memory().with_judged("d1", "0 10:00")
    assert memory.is_judged("d1") and memory.is_judged("d1", "0 10:00")
    assert not memory.is_judged("d1", "900 10:05") and not memory.is_judged("d2")
    assert not Memory().with_judged("d1").is_judged("d1", "0 10:00")
    again = memory.with_judged("d1", "900 10:05")
    assert again.judged == (("d1", "900 10:05"),)


def test_what_was_installed_already_and_is_committed_anew() -> None:
    """
    Its name is the same, so the script of the artifact says so, or the newer client's state.
    """
    change = Change(replace(BY_HAND, artifact="release-1"), Outcome.UNKNOWN)
    left = event("ArtifactCommit_Leave", "release-1")
    verdict = deploymentjudge.by_hand(change, [left], "release-1")
    assert verdict is not None and verdict.success and verdict.subject == "release-1"
    assert deploymentjudge.by_hand(change, [], "release-1") is None
    assert deploymentjudge.by_hand(None, [replace(left, mode=MANAGED)], "release-1") is None
    broken = deploymentjudge.by_hand(
        None, [left, event("ArtifactCommit_Error", "release-1")], "release-1_INCONSISTENT"
    )
    assert broken is not None and broken.outcome == Outcome.INCONSISTENT

    seen = None
    for phase in ("ArtifactInstall_Enter", "ArtifactCommit_Enter", "ArtifactCommit_Leave", "Cleanup"):
        stored = Stored(None, Standalone("release-1", ("x",), phase), "release-1")
        seen = advance(seen, stored, None, NOW)
        assert seen is not None
        end = updateprogress.ended(seen, Stored(artifact="release-1"), None)
        wanted = Outcome.COMMITTED if seen.committed else Outcome.UNKNOWN
        assert end.outcome == wanted
    assert wanted == Outcome.COMMITTED


@pytest.mark.parametrize("phase", ["mender-update-control-refresh-maps", "update-error", "cleanup"])
@pytest.mark.parametrize(("before", "installing"), [("update-after-store", False), ("update-install", True)])
def test_a_phase_that_follows_both_kinds(phase, before, installing) -> None:
    """It changes the device, or not, as the phase before it did."""
    managed = Managed(before, "d1", "release-2", ())
    seen = advance(None, Stored(managed), None, NOW)
    seen = advance(seen, Stored(replace(managed, phase=phase)), None, NOW)
    assert seen is not None and seen.update.installing is installing


def test_scripts_in_their_order() -> None:
    """By the time since the boot, not as text, and not by a clock that was set; boots by the clock."""
    wanted = [
        replace(event("Download_Leave", at=99.5), boot_id="z", wall=500.0),
        replace(event("ArtifactInstall_Error", at=100.25), boot_id="z", wall=400.0),
        replace(event("ArtifactFailure_Enter", at=5.0), boot_id="a", wall=900.0),
    ]
    assert deploymentevents.in_order(reversed(wanted)) == wanted


def test_scripts_of_the_same_moment() -> None:
    """Their clock has hundredths of a second, and the download came first."""
    wanted = [event("Download_Leave"), event("ArtifactInstall_Error")]
    assert deploymentevents.in_order(wanted) == deploymentevents.in_order(reversed(wanted)) == wanted


@given(st.binary(max_size=300))
def test_any_bytes_in_the_spool(data: bytes) -> None:
    for whole in (data, b"script=ArtifactFailure_Enter_50_x\n" + data + b"\nend=1\n"):
        try:
            found = deploymentevents.parse(whole)
        except ValueError:
            continue
        assert found is None or found.failing or found.state


PHASES = (
    "update-fetch update-store update-install mender-update-control reboot after-reboot update-commit"
    " rollback rollback-reboot update-error cleanup update-status-report nonsense"
)
MANAGED_STATES = st.builds(
    Managed,
    phase=st.sampled_from(PHASES.split()),
    id=st.sampled_from(["d1", "d2"]),
    artifact=st.sampled_from(["", "release-2"]),
    payload_types=st.just(()),
)
STANDALONE_STATES = st.builds(
    Standalone, artifact=st.sampled_from(["release-2", "release-3"]), payload_types=st.just(("x",))
)
LOOKS = st.tuples(
    st.builds(
        Stored,
        managed=st.none() | MANAGED_STATES,
        standalone=st.none() | STANDALONE_STATES,
        artifact=st.sampled_from(["", "release-1", "release-2", "release-2_INCONSISTENT"]),
    ),
    st.none() | st.just(Tree()) | st.just(Tree("release-2", "x")),
)


@given(st.lists(LOOKS))
def test_whatever_the_store_shows(looks) -> None:
    """It keeps its begin, and its end can be told at any moment."""
    seen: Seen | None = None
    for number, (stored, tree) in enumerate(looks):
        before, seen = seen, advance(seen, stored, tree, replace(NOW, boottime=float(number)))
        if before is not None:
            end = updateprogress.ended(before, stored, None)
            assert end.outcome is not None
            assert not (end.failed and end.outcome == Outcome.COMMITTED)
        if seen is not None and before is not None and updateprogress.same(before.update, seen.update):
            assert seen.update.since == before.update.since
        if seen is not None and seen.update.phase in ("update-install", "rollback", "reboot"):
            assert seen.update.installing
