"""Artifacts that somebody installs by hand: no log tells of them, our state scripts do."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host import updates
from mender_monitor_py.model import CRITICAL, OK
from mender_monitor_py.subsystems import deployment
from mender_monitor_py.subsystems.deployment import FAILED
from mender_monitor_py.subsystems.deploymentstandstill import STUCK
from mender_monitor_py.subsystems.deploymentwords import WHOLE_S
from tests.fakes.deployment_run import fail, hurry, moment, script, taken, told, watched
from tests.fakes.judging import SOON, JudgingReport
from tests.fakes.update_files import UpdateFiles
from tests.fakes.watched import elapse


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nothing here comes late."""
    hurry(monkeypatch)


def test_by_hand_and_failed_in_install(paths) -> None:
    """No script says so, but what never waited for a commit and is gone has failed."""
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.plant_tree("release-2")
            await moment()
            script(paths, "Download_Leave", "standalone", artifact="release-2")
            client.remove_tree()
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]
    assert "installed by hand" in report.alerts[0].details.description


@pytest.mark.parametrize("says_so", [True, False])
def test_by_hand_and_rolled_back_before_its_commit(paths, says_so) -> None:
    """Without a script in the artifact, it may have been asked for: then it is no failure."""
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.plant_tree("release-2")
            client.standalone("release-2")
            await moment()
            if says_so:
                script(paths, "ArtifactCommit_Error", "standalone", artifact="release-2")
                script(paths, "ArtifactFailure_Enter", "standalone", artifact="release-2")
            client.standalone(None)
            client.remove_tree()
            await (report.until(lambda: report.alerts) if says_so else elapse(0.5))

    asyncio.run(scenario())
    wanted = [(CRITICAL, FAILED, "release-2", "rolled-back")] if says_so else []
    assert told(report) == wanted
    if says_so:
        assert "failed in ArtifactCommit" in report.alerts[0].details.description


def test_by_hand_as_the_newer_client_says(paths) -> None:
    client, report = UpdateFiles(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.plant_tree("release-2")
            client.standalone("release-2", InState="Before_ArtifactInstall_Enter")
            await moment()
            client.standalone("release-2", InState="ArtifactRollback_Enter", Failed=True)
            await moment()
            client.standalone(None)
            client.remove_tree()
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]
    assert "failed in ArtifactInstall" in report.alerts[0].details.description


def test_by_hand_while_the_daemon_was_down(paths) -> None:
    """The scripts' words wait in the spool, and are one failure."""
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await moment()
        script(paths, "Download_Leave", "standalone", artifact="release-2")
        script(paths, "ArtifactInstall_Error", "standalone", artifact="release-2")
        script(paths, "ArtifactFailure_Enter", "standalone", artifact="release-2")
        again = JudgingReport(report.memory)
        async with watched(paths, again):
            await again.until(lambda: again.alerts)
            await taken(paths)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]
    del client


def test_by_hand_and_the_scripts_word_comes_late(paths, monkeypatch) -> None:
    """
    As on a busy device: it is waited for, since without it nothing tells that the device was changed.
    """
    monkeypatch.setattr(deployment, "SETTLE_S", SOON)
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report) as host:
            client.plant_tree("release-2")
            await moment()
            client.remove_tree()
            await report.until(lambda: host.updates.settled)
            await moment()
            script(paths, "Download_Leave", "standalone", artifact="release-2")
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


class Cut(JudgingReport):
    """The power is cut after the first alert."""

    async def tell(self, observation) -> None:
        await super().tell(observation)
        await asyncio.Event().wait()


def test_several_by_hand_while_the_daemon_was_down(paths) -> None:
    """
    Each is a failure of its own; the last one has only begun well. A power cut after the first loses none.
    """
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await moment()
        for artifact, names in (
            ("release-2", ("Download_Leave", "ArtifactInstall_Error", "ArtifactFailure_Enter")),
            ("release-5", ("Download_Leave", "ArtifactCommit_Error")),
            ("release-3", ("Download_Error",)),
            ("release-4", ("Download_Leave",)),
        ):
            for name in names:
                script(paths, name, "standalone", artifact=artifact)
                await asyncio.sleep(0.02)  # the moments are told in hundredths
        cut = Cut(report.memory)
        async with watched(paths, cut):
            await cut.until(lambda: cut.alerts)
        assert len(cut.alerts) == 1
        again = JudgingReport(cut.memory)
        again.alerts += cut.alerts
        async with watched(paths, again):
            await again.until(lambda: len(again.alerts) == 3)
            await taken(paths)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert [(subject, status) for _, _, subject, status in told(report)] == [
        ("release-2", "rolled-back"),
        ("release-5", "rolled-back"),
        ("release-3", "failed"),
    ]
    phases = ["ArtifactInstall", "ArtifactCommit", "Download"]
    for alert, phase in zip(report.alerts, phases, strict=True):
        assert f"failed in {phase}\n" in alert.details.description
    del client


@pytest.mark.parametrize(("artifact", "settle"), [("release-2", 0.1), ("release-2", 0.0), ("release-3", 0.1)])
def test_by_hand_and_the_power_was_cut(paths, monkeypatch, artifact, settle) -> None:
    """
    The download was good, and nobody has taken the work tree away: who knows what the module has done. A
    daemon that stood still does not judge what the script says before it has looked at what the client wrote.
    """
    monkeypatch.setattr(deployment, "SETTLE_S", settle)
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.plant_tree(artifact)
            script(paths, "Download_Leave", "standalone", artifact="release-2")
            await moment()
        client.kill()
        for _ in range(2):
            again = JudgingReport(report.memory)
            async with watched(paths, again):
                await taken(paths)
                await elapse(0.3)
            report.alerts += again.alerts
            report.memory = again.memory

    asyncio.run(scenario())
    assert told(report) == ([(CRITICAL, FAILED, "release-2", "unknown")] if artifact == "release-2" else [])


@pytest.mark.parametrize("awake", [True, False])
def test_what_is_installed_is_installed_anew_and_committed(paths, awake) -> None:
    """The script in the artifact says so: the older client's store looks as after a rollback."""
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def reinstalled() -> None:
        script(paths, "Download_Leave", "standalone", artifact="release-1")
        client.plant_tree("release-1")
        client.standalone("release-1")
        await moment()
        script(paths, "ArtifactCommit_Leave", "standalone", artifact="release-1")
        client.remove_tree()
        client.standalone(None)

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            if awake:
                await reinstalled()
                await report.until(lambda: len(report.alerts) == 2)
        if not awake:
            await reinstalled()
        again = JudgingReport(report.memory)
        again.states = report.states
        async with watched(paths, again):
            if not awake:
                await again.until(lambda: again.alerts)
            await taken(paths)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert told(report) == [
        (CRITICAL, FAILED, "release-2", "rolled-back"),
        (OK, FAILED, "release-2", "committed"),
    ]
    assert "release-1 was installed" in report.alerts[1].details.description


def test_what_scripts_wrote_before_the_check_ran_is_history(paths) -> None:
    UpdateFiles(paths.mender)
    report = JudgingReport()
    paths.deployment_spool.mkdir(parents=True)
    script(paths, "ArtifactInstall_Error", "standalone", artifact="release-2")

    async def scenario() -> None:
        async with watched(paths, report):
            await taken(paths)
            await elapse(0.3)

    asyncio.run(scenario())
    assert not report.alerts


def test_a_word_that_is_not_whole(paths) -> None:
    """Its script may still write it; the power was cut, or the disk full, when an old one was written."""
    UpdateFiles(paths.mender)
    report = JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            old, young = (paths.deployment_spool / name for name in ("old", "young"))
            for path in (old, young):
                path.write_text("script=ArtifactInstall_Error\nmode=standalone\n")
            long_ago = time.time() - WHOLE_S - 1
            os.utime(old, (long_ago, long_ago))
            await moment()
            (paths.deployment_spool / "another").write_text("nonsense\nend=1\n")
            async with asyncio.timeout(SOON):
                while old.exists():
                    await elapse(0.1)
            assert young.exists()

    asyncio.run(scenario())
    assert not report.alerts


def test_hostile_files_in_the_spool(paths) -> None:
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            spool: Path = paths.deployment_spool
            secret = paths.root / "secret"
            secret.write_text("secret")
            (spool / "link").symlink_to(secret)
            (spool / "folder").mkdir()
            (spool / "long").write_bytes(b"x" * 100_000)
            (spool / "nonsense").write_bytes(b"\xff\0script=rm -rf\nend=1\n")
            script(paths, "ArtifactFailure_Enter", "standalone", artifact="x\x1b[31m\x00" + "y" * 3000)
            await report.until(lambda: report.alerts)
            assert [path.name for path in spool.iterdir()] == ["folder"]
            assert secret.exists()

    asyncio.run(scenario())
    (alert,) = report.alerts
    assert alert.subject.name.isprintable()
    assert len(alert.subject.name) < 600
    del client


class FullDisk(JudgingReport):
    """Nothing that it is told gets to the disk."""

    async def tell(self, observation) -> None:
        await super().tell(observation)
        self.stored = False
        raise OutboxError("no space left on device")


def test_what_a_script_wrote_stays_until_the_alert_is_on_the_disk(paths) -> None:
    """
    The disk is full, and then the power is cut: the next daemon tells it. It is one alert for each of them.
    """
    client = UpdateFiles(paths.mender)
    full, report = FullDisk(), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, full):
            memory = full.memory
            script(paths, "ArtifactInstall_Error_50_mender-monitor", "standalone", artifact="release-2")
            await full.until(lambda: full.alerts)
            client.installed("release-1")  # it looks again
            await elapse(0.5)
        assert len(full.alerts) == 1 and len(list(paths.deployment_spool.iterdir())) == 1
        report.memory = memory
        async with watched(paths, report):
            await report.until(lambda: report.alerts)
            await report.until(lambda: not list(paths.deployment_spool.iterdir()))

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


def test_what_a_script_wrote_goes_when_the_disk_has_room_again(paths, monkeypatch) -> None:
    """The alert was held and is written then; the scripts write nothing beside too many old words."""
    monkeypatch.setattr(deployment, "STORED_S", 0.1)
    full = FullDisk()

    async def scenario() -> None:
        async with watched(paths, full):
            script(paths, "ArtifactInstall_Error_50_mender-monitor", "standalone", artifact="release-2")
            await full.until(lambda: full.alerts)
            await elapse(0.5)
            assert list(paths.deployment_spool.iterdir())
            full.stored = True
            await taken(paths)
        assert len(full.alerts) == 1

    asyncio.run(scenario())


def test_one_by_hand_whose_module_hangs_is_stuck(paths, monkeypatch) -> None:
    """
    The older client writes nothing meanwhile, so it is looked at now and then: that is no sign of life.
    """
    monkeypatch.setattr(updates, "RETRY_S", 0.2)
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report, DEPLOYMENT_STUCK="1s"):
            client.plant_tree("release-2")
            try:
                await report.until(lambda: report.alerts)
            finally:
                client.remove_tree()
            await report.until(lambda: (OK, STUCK) in [(one.level, one.name) for one in report.alerts])

    asyncio.run(scenario())
    assert (report.alerts[0].name, report.alerts[0].subject.name) == (STUCK, "release-2")
