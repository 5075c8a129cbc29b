"""Deployments that fail, from the files that the update clients and our state scripts write."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mender_monitor_py.deploymentlog import DeploymentLog
from mender_monitor_py.errors import OutboxError, UnknownError
from mender_monitor_py.host import deploymentlogs, updates
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.deploymentlogs import LogFile
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import deployment
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.deployment import FAILED, STUCK, DeploymentCheck
from tests.fakes.judging import SOON, JudgingReport
from tests.fakes.update_files import PROGRAM, SECRET, UpdateFiles

CHECK = CheckId("deployment", "mender")
GENERATIONS = pytest.mark.parametrize("generation", ["go", "cpp"])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nothing here comes late."""
    monkeypatch.setattr(deployment, "SETTLE_S", 0.1)
    monkeypatch.setattr(updates, "RENAMED_S", 0.1)
    monkeypatch.setattr(updates, "_PROGRAMS", (PROGRAM,))


@asynccontextmanager
async def watched(paths, report: JudgingReport, **values: str):
    paths.state.mkdir(parents=True, exist_ok=True)
    host = Host(paths, Clock())
    check = DeploymentCheck(Definition(CHECK, values), Settings())
    task = asyncio.get_running_loop().create_task(check.run(host, report))
    try:
        await report.until(lambda: report.reason != "starting")
        await moment()
        yield host
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await host.aclose()


async def moment() -> None:
    """What the kernel told is taken."""
    await asyncio.sleep(0.1)


async def fail(
    client: UpdateFiles, deployment: str, artifact: str = "release-2", installed: str = ""
) -> None:
    client.begin(deployment, artifact)
    await moment()
    client.phase("update-install", artifact)
    client.log(
        "Process returned non-zero exit status: ArtifactInstall: Process exited with status 1", "error"
    )
    await moment()
    client.phase("rollback", artifact)
    await moment()
    client.end(success=False, artifact=installed)


async def succeed(client: UpdateFiles, deployment: str, artifact: str) -> None:
    client.begin(deployment, artifact)
    await moment()
    client.phase("update-install", artifact)
    await moment()
    client.end(success=True, artifact=artifact)


def script(paths, name: str, mode: str, *, artifact: str = "", deployment: str = "") -> None:
    """As a state script leaves its word."""
    now = Clock().now()
    words = {
        "script": name, "mode": mode, "deployment": deployment, "artifact": artifact, "boot": now.boot_id,
        "uptime": f"{now.boottime:.2f}", "wall": f"{now.wall:.0f}", "end": "1",
    }  # fmt: skip
    text = "".join(f"{key}={value}\n" for key, value in words.items())
    (paths.deployment_spool / f"{now.boottime:.3f}-{name}").write_text(text)


def told(report: JudgingReport) -> list[tuple[str, str, str, str]]:
    return [(one.level, one.name, one.subject.name, one.subject.status) for one in report.alerts]


@GENERATIONS
def test_a_failure_and_the_next_success(paths, generation) -> None:
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            await succeed(client, "d2", "release-3")
            await report.until(lambda: len(report.alerts) == 2)
            await succeed(client, "d3", "release-4")
            await moment()

    asyncio.run(scenario())
    assert told(report) == [
        (CRITICAL, FAILED, "release-2", "rolled-back"),
        (OK, FAILED, "release-2", "committed"),
    ]
    details = report.alerts[0].details
    assert "failed in ArtifactInstall" in details.description
    assert "deployment: d1" in details.description
    assert "it was rolled back; release-1 is installed" in details.description
    assert any("ArtifactInstall: Process exited" in line.data for line in details.lines_before)
    assert SECRET not in str(report.alerts)
    assert "release-3 was installed" in report.alerts[1].details.description


@GENERATIONS
def test_one_that_the_server_tries_again(paths, generation) -> None:
    """It has the same id then: a second failure is still the first alert, and a success ends that."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            await fail(client, "d1")
            await moment()
            await succeed(client, "d1", "release-2")
            await report.until(lambda: len(report.alerts) == 2)
            await moment()

    asyncio.run(scenario())
    assert told(report) == [
        (CRITICAL, FAILED, "release-2", "rolled-back"),
        (OK, FAILED, "release-2", "committed"),
    ]


@GENERATIONS
def test_a_download_that_fails_has_changed_nothing(paths, generation) -> None:
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1")
            await moment()
            client.phase("update-store")
            await moment()
            client.log("State transition: update-store [Download_Enter] -> cleanup [Error]")
            client.phase("cleanup")
            await moment()
            client.log("State transition: cleanup [Error] -> update-status-report [none]")
            client.end(success=False, failed_in="")
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "failed")]


ABORTS = {
    "go": ("Status report rejected, deployment aborted at the backend", "warning"),
    "cpp": ("Could not send deployment status: Deployment was aborted on the server: 409", "error"),
}


@GENERATIONS
def test_the_server_aborts(paths, generation) -> None:
    """Before anything was changed nobody is told; what had to be rolled back is told as what it is."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1", "release-2")
            await moment()
            client.phase("update-store", "release-2")
            await moment()
            client.log(*ABORTS[generation])
            client.log("State transition: update-store [Download_Enter] -> update-status-report [none]")
            client.end(success=False, failed_in="")
            await moment()
            client.begin("d2", "release-3")
            await moment()
            client.phase("update-commit", "release-3")
            client.log(*ABORTS[generation])
            await moment()
            client.phase("rollback", "release-3")
            await moment()
            client.end(success=False, failed_in="update-commit")
            await report.until(lambda: report.alerts)
            await moment()

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-3", "rolled-back")]
    assert "the server aborted it in ArtifactCommit\n" in report.alerts[0].details.description


@GENERATIONS
def test_one_that_needs_help(paths, generation) -> None:
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1", installed="release-2_INCONSISTENT")
            await report.until(lambda: report.alerts)
            await moment()

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "inconsistent")]
    assert "the device needs help" in report.alerts[0].details.description


@GENERATIONS
def test_a_failure_while_the_daemon_was_down(paths, generation) -> None:
    """It is found at the start. What was there before the check ever ran is history."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        await fail(client, "history", "release-0")
        async with watched(paths, report):
            await moment()
        assert not report.alerts
        await fail(client, "d1")
        await fail(client, "d2", "release-3", "release-3_INCONSISTENT")
        for _ in range(2):
            again = JudgingReport(report.memory)
            async with watched(paths, again):
                await moment()
            report.alerts += again.alerts
            report.memory = again.memory

    asyncio.run(scenario())
    subjects = ["release-2", "release-3"] if generation == "go" else ["d1", "release-3"]
    assert [(one.subject.name, one.subject.status) for one in report.alerts] == [
        (subjects[0], "rolled-back"),
        (subjects[1], "inconsistent"),
    ]


def test_one_that_is_found_later_says_when_it_ended(paths) -> None:
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await moment()
        await fail(client, "d1")
        (log,) = paths.mender.glob("deployments.*.log")
        os.utime(log, (1_795_651_200, 1_795_651_200))
        again = JudgingReport(report.memory)
        async with watched(paths, again):
            await again.until(lambda: again.alerts)
            await fail(client, "d2")
            await again.until(lambda: len(again.alerts) == 2)
        report.alerts += again.alerts

    asyncio.run(scenario())
    first, second = (one.details.description for one in report.alerts)
    assert "deployment: d1; it ended 2026-11-26 00:00:00 UTC\n" in first
    assert "deployment: d2\n" in second


def test_a_failure_after_a_reboot_has_the_name_that_was_seen_before(paths) -> None:
    """
    The log does not say it, and the client may have ended the deployment before the daemon runs again.
    """
    client, report = UpdateFiles(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1", "release-2")
            await moment()
            client.phase("reboot", "release-2")
            await moment()
        client.end(success=False, artifact="")
        again = JudgingReport(report.memory)
        async with watched(paths, again):
            await again.until(lambda: again.alerts)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert [one.subject.name for one in report.alerts] == ["release-2"]


def test_a_success_while_the_daemon_was_down_clears(paths) -> None:
    client, report = UpdateFiles(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
        await succeed(client, "d2", "release-3")
        again = JudgingReport(report.memory)
        again.states = report.states
        async with watched(paths, again):
            await again.until(lambda: again.alerts)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert [one.level for one in report.alerts] == [CRITICAL, OK]
    assert report.alerts[1].details.description.endswith("release-3 was installed")


@GENERATIONS
def test_the_same_artifact_twice_is_told_twice(paths, generation) -> None:
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            for deployment in ("d1", "d2"):
                await fail(client, deployment)
                await report.until(lambda: deployment in str(report.alerts))  # noqa: B023

    asyncio.run(scenario())
    assert [one.level for one in report.alerts] == [CRITICAL, CRITICAL]


@GENERATIONS
def test_a_failure_that_several_ways_tell_is_one(paths, generation) -> None:
    """The log, the store, and the scripts of the artifact."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1")
            await moment()
            for name in ("ArtifactInstall_Error", "ArtifactRollback_Leave", "ArtifactFailure_Enter"):
                script(paths, name, "managed", artifact="release-2", deployment="d1")
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            script(paths, "ArtifactFailure_Leave", "managed", artifact="release-2", deployment="d1")
            await asyncio.sleep(0.5)
            assert not list(paths.deployment_spool.iterdir())

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


@pytest.mark.parametrize("deployment_id", ["d1", ""])
def test_several_ways_and_the_logs_in_another_folder(paths, deployment_id) -> None:
    """
    By UpdateLogPath, which a script that came within an artifact may not follow: it does not tell the id.
    """
    logs = paths.root / "data/logs"
    logs.mkdir(parents=True)
    paths.mender_conf.parent.mkdir(parents=True)
    paths.mender_conf.write_text(json.dumps({"UpdateLogPath": "/data/logs"}))
    client, report = UpdateFiles(paths.mender, "cpp", logs=logs), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1")
            await moment()
            script(paths, "ArtifactInstall_Error", "managed", artifact="release-2", deployment=deployment_id)
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            script(paths, "ArtifactFailure_Enter", "managed", artifact="release-2", deployment=deployment_id)
            await asyncio.sleep(0.5)
            assert not list(paths.deployment_spool.iterdir())

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]
    assert "deployment: d1" in report.alerts[0].details.description


@GENERATIONS
def test_no_log_at_all(paths, generation) -> None:
    """The client writes none while the disk is full."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1")
            for file in paths.mender.glob("deployments.*"):
                file.unlink()
            await moment()
            client.log = lambda *_: None  # type: ignore[method-assign]
            await fail(client, "d1")
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


ERRORS = {
    "go": "Update module terminated abnormally: exit status 1",
    "cpp": "Process returned non-zero exit status: ArtifactInstall: Process exited with status 1",
}


class Quiet(UpdateFiles):
    """A client whose DaemonLogLevel is warning: its logs have neither transitions nor an end."""

    def log(self, message: str, level: str = "info") -> None:
        with self._log(0, self.id).open("a"):
            if level != "info":
                super().log(ERRORS[self.generation], level)


@GENERATIONS
def test_a_client_that_logs_errors_only(paths, generation) -> None:
    client, report = Quiet(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await succeed(client, "d1", "release-2")
            await moment()
            await fail(client, "d2", "release-3")
            await report.until(lambda: report.alerts)
            client.begin("d3", "release-4")
            await moment()
            script(paths, "Download_Error", "managed", artifact="release-4", deployment="d3")
            client.end(success=False)
            await report.until(lambda: len(report.alerts) == 2)
            await succeed(client, "d4", "release-5")
            await report.until(lambda: len(report.alerts) == 4)
            assert not list(paths.deployment_spool.iterdir())

    asyncio.run(scenario())
    assert told(report) == [
        (CRITICAL, FAILED, "release-3", "rolled-back"),
        (CRITICAL, FAILED, "release-4", "failed"),
        (OK, FAILED, "release-3", "committed"),
        (OK, FAILED, "release-4", "committed"),
    ]
    assert ERRORS[generation] in str(report.alerts[0].details.lines_before)
    assert "failed in Download\n" in report.alerts[1].details.description


def test_a_client_that_logs_errors_only_and_takes_its_time(paths) -> None:
    """
    Its log is there long before the store says that something runs: a script of the state Sync is slow.
    """
    client, report = Quiet(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.id = "d1"
            client.log("Deployment with ID d1 started.")
            await asyncio.sleep(0.4)
            await fail(client, "d1")
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


@GENERATIONS
def test_a_client_that_logs_errors_only_and_a_store_that_cannot_be_read_for_a_while(
    paths, generation
) -> None:
    """
    It is not known whether it runs: it is judged when that is.
    """
    client, report = Quiet(paths.mender, generation), JudgingReport()
    store = paths.mender / "mender-store"

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1")
            await moment()
            client.phase("update-install")
            client.log("", "error")
            await moment()
            whole = store.read_bytes()
            store.write_bytes(b"x" * 100_000)
            await report.until(lambda: report.reason)
            await moment()
            assert not report.alerts
            store.write_bytes(whole)
            await report.until(lambda: not report.reason)
            client.phase("rollback")
            await moment()
            client.end(success=False)
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


@GENERATIONS
def test_a_client_that_logs_errors_only_while_the_daemon_was_down(paths, generation) -> None:
    """
    One of before is history. A success is none, and one that runs has not failed yet.
    """
    client, report = Quiet(paths.mender, generation), JudgingReport()

    def deploy(deployment: str, artifact: str, installed: str = "", *, errors: bool) -> None:
        client.begin(deployment, artifact)
        script(paths, "Download_Leave", "managed", artifact=artifact, deployment=deployment)
        if errors:
            client.log("", "error")
        client.end(success=not errors, artifact=installed)

    async def look() -> list[str]:
        """The subjects and statuses that the next daemon tells."""
        daemon = JudgingReport(report.memory)
        async with watched(paths, daemon):
            await asyncio.sleep(0.4)
        report.memory = daemon.memory
        return [f"{one.subject.name} {one.subject.status}" for one in daemon.alerts]

    async def scenario() -> None:
        paths.deployment_spool.mkdir(parents=True)
        deploy("history", "release-0", errors=True)
        assert await look() == []
        deploy("d1", "release-2", "release-2", errors=False)
        await asyncio.sleep(0.02)
        deploy("d2", "release-3", "release-3_INCONSISTENT", errors=True)
        assert await look() == ["release-3 inconsistent"]
        client.begin("d3", "release-4")
        client.phase("update-store", "release-4")
        client.log("", "error")
        assert await look() == []
        client.end(success=False)
        script(paths, "Download_Error", "managed", artifact="release-4", deployment="d3")
        assert await look() == ["release-4 failed"]
        assert await look() == []
        client.begin("d4", "release-5")
        client.log("", "error")  # on the way to a success
        client.end(success=True, artifact="release-5")
        assert await look() == await look() == []
        assert not list(paths.deployment_spool.iterdir())

    asyncio.run(scenario())


# By hand


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
            await asyncio.sleep(0.5)

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
            await asyncio.sleep(0.3)
            assert not list(paths.deployment_spool.iterdir())
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
            await asyncio.sleep(0.3)
            assert not list(paths.deployment_spool.iterdir())
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


@pytest.mark.parametrize("artifact", ["release-2", "release-3"])
def test_by_hand_and_the_power_was_cut(paths, artifact) -> None:
    """The download was good, and nobody has taken the work tree away: who knows what the module has done."""
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
                await asyncio.sleep(0.3)
                assert not list(paths.deployment_spool.iterdir())
            report.alerts += again.alerts
            report.memory = again.memory

    asyncio.run(scenario())
    assert told(report) == ([(CRITICAL, FAILED, "release-2", "unknown")] if artifact == "release-2" else [])


def test_only_the_name_tells(paths) -> None:
    """Nothing but the artifact's name was left behind while the daemon was down."""
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await moment()
        client.installed("release-2_INCONSISTENT")
        again = JudgingReport(report.memory)
        async with watched(paths, again):
            await again.until(lambda: again.alerts)
            client.installed("release-3")
            await again.until(lambda: len(again.alerts) == 2)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert told(report) == [
        (CRITICAL, FAILED, "release-2", "inconsistent"),
        (OK, FAILED, "release-2", "committed"),
    ]


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


# Stuck


class FullDisk(JudgingReport):
    """Nothing that it is told gets to the disk."""

    async def tell(self, observation) -> None:
        await super().tell(observation)
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
            await asyncio.sleep(0.5)
        assert len(full.alerts) == 1 and len(list(paths.deployment_spool.iterdir())) == 1
        report.memory = memory
        async with watched(paths, report):
            await report.until(lambda: report.alerts)
            await report.until(lambda: not list(paths.deployment_spool.iterdir()))

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


def test_a_log_that_cannot_be_read_hides_no_other(paths, monkeypatch) -> None:
    """
    A disk has errors: the other failures are told, and this one when it can be read.
    """
    client, report, bad = UpdateFiles(paths.mender), JudgingReport(), {"d1"}

    def read_log(file: LogFile, *arguments: int) -> DeploymentLog:
        if file.deployment in bad:
            raise UnknownError(f"{file.path} cannot be read: Input/output error")
        return deploymentlogs.read(file, *arguments)

    monkeypatch.setattr(deployment, "read_log", read_log)

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1", "release-2")
            await report.until(lambda: report.reason)
            await fail(client, "d2", "release-3")
            await report.until(lambda: report.alerts)
            assert "Input/output error" in report.reason
            bad.clear()
            client.installed("release-1")
            await report.until(lambda: len(report.alerts) == 2 and not report.reason)

    asyncio.run(scenario())
    assert sorted(one.subject.name for one in report.alerts) == ["release-2", "release-3"]


def test_one_that_is_stuck_and_moves_again(paths, monkeypatch) -> None:
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report, DEPLOYMENT_STUCK="1s"):
            client.begin("d1")
            await report.until(lambda: report.alerts)
            client.phase("update-install")
            await report.until(lambda: len(report.alerts) == 2)
            await report.until(lambda: len(report.alerts) == 3)
            client.end(success=True, artifact="release-2")
            await report.until(lambda: len(report.alerts) == 4)

    asyncio.run(scenario())
    assert [(one.level, one.name, one.subject.name) for one in report.alerts] == [
        (CRITICAL, STUCK, "release-2"),
        (OK, STUCK, "release-2"),
    ] * 2


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


@pytest.mark.parametrize(("hours", "alerts"), [(1, []), (3, [STUCK])])
def test_one_that_was_stuck_before_the_daemon_came(paths, hours, alerts) -> None:
    """
    The time counts over restarts and reboots: since the client wrote last.
    """
    client, report = UpdateFiles(paths.mender), JudgingReport()
    client.begin("d1")
    (log,) = paths.mender.glob("deployments.*.log")
    then = time.time() - hours * 3600
    os.utime(log, (then, then))

    async def scenario() -> None:
        async with watched(paths, report):
            await moment()

    asyncio.run(scenario())
    assert [one.name for one in report.alerts] == alerts


@pytest.mark.parametrize("name", ["+stuck", "\tstuck"])
def test_no_artifact_is_called_so_that_nothing_is_stuck(paths, monkeypatch, name) -> None:
    """
    An artifact of such a name has failed, and is an open alert.
    """
    client, report = UpdateFiles(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report, DEPLOYMENT_STUCK="1s"):
            await fail(client, "d1", name)
            await report.until(lambda: report.alerts)
            client.begin("d2", "release-3")
            await report.until(lambda: report.alerts[-1].name == STUCK)

    asyncio.run(scenario())
    assert [one.name for one in report.alerts] == [FAILED, STUCK]


def test_no_update_client(paths) -> None:
    report = JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            assert "no update client has run here" in report.notes["client"]
            UpdateFiles(paths.mender)
            await report.until(lambda: not report.notes["client"])
            (paths.mender / "mender-store").write_bytes(b"x" * 100_000)
            await report.until(lambda: "no LMDB file" in report.reason)

    asyncio.run(scenario())


def test_the_status_says_what_runs(paths) -> None:
    client, report = UpdateFiles(paths.mender), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1")
            client.phase("update-install")
            await report.until(lambda: "update-install" in report.notes.get("deployment", ""))
            client.end(success=True, artifact="release-2")
            await report.until(lambda: not report.notes["deployment"])

    asyncio.run(scenario())


def test_a_memory_of_another_version_is_none(paths) -> None:
    """And then all that lies there is history."""
    client = UpdateFiles(paths.mender)
    report = JudgingReport(json.dumps({"nonsense": 1}))

    async def scenario() -> None:
        await fail(client, "d1")
        async with watched(paths, report):
            await moment()

    asyncio.run(scenario())
    assert not report.alerts
    shutil.rmtree(paths.mender)
