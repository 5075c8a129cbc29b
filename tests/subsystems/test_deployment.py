"""Deployments that the server makes, from the files that the update clients and our state scripts write."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import replace

import pytest

from mender_monitor_py.deploymentlog import DeploymentLog
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import deploymentlogs
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.deploymentlogs import LogFile
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, OK
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import deployment
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.deployment import FAILED, DeploymentCheck
from tests.fakes.deployment_run import (
    CHECK,
    GENERATIONS,
    fail,
    hurry,
    moment,
    script,
    succeed,
    taken,
    told,
    watched,
)
from tests.fakes.judging import JudgingReport
from tests.fakes.update_files import SECRET, UpdateFiles


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nothing here comes late."""
    hurry(monkeypatch)


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
@pytest.mark.parametrize("success_between", [False, True])
def test_one_that_the_server_tries_again(paths, generation, success_between) -> None:
    """
    It has the same id then, and the same log, or after another deployment a new one. It is another failure,
    told once, whatever becomes of its log then.
    """
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()
    wanted = [(CRITICAL, FAILED, "release-2", "rolled-back")]

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            if success_between:
                await succeed(client, "d2", "release-3")
                await report.until(lambda: len(report.alerts) == 2)
                wanted.append((OK, FAILED, "release-2", "committed"))
            await fail(client, "d1")
            await report.until(lambda: len(report.alerts) == len(wanted) + 1)
            wanted.append((CRITICAL, FAILED, "release-2", "rolled-back"))
            (log,) = paths.mender.glob(f"deployments.{client.newest}.d1.log")
            client.log("State transition: update-status-report [none] -> update-retry-report [none]")
            client.log("State transition: update-retry-report [none] -> update-status-report [none]")
            await moment()
            log.touch()
            await moment()
            copy = log.with_name("copy")
            shutil.copy(log, copy)
            copy.rename(log)
            await moment()
        again = JudgingReport(report.memory)
        async with watched(paths, again):
            await moment()
        assert told(report) == wanted and not again.alerts
        again.states = report.states
        async with watched(paths, again):
            await succeed(client, "d1", "release-2")
            await again.until(lambda: again.alerts)
            await moment()
        assert told(again) == [(OK, FAILED, "release-2", "committed")]

    asyncio.run(scenario())


@GENERATIONS
@pytest.mark.parametrize("awake", [True, False])
def test_one_that_the_server_tries_again_is_worse(paths, generation, awake) -> None:
    """It was rolled back, and is not the second time, whether the daemon runs then or not."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            await moment()
            if awake:
                await fail(client, "d1", installed="release-2_INCONSISTENT")
                await report.until(lambda: len(report.alerts) == 2)
                await moment()
        if not awake:
            await fail(client, "d1", installed="release-2_INCONSISTENT")
        again = JudgingReport(report.memory)
        again.states = report.states
        async with watched(paths, again):
            await moment()
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert [one.subject.status for one in report.alerts] == ["rolled-back", "inconsistent"]


@GENERATIONS
def test_one_without_a_log_that_the_server_tries_again(paths, generation) -> None:
    """The disk is full: the store tells that it runs again."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()
    client.log = lambda *_: None  # type: ignore[method-assign]

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
            await fail(client, "d1")
            await report.until(lambda: len(report.alerts) == 2)
            await moment()

    asyncio.run(scenario())
    assert [one.subject.status for one in report.alerts] == ["rolled-back", "rolled-back"]


def test_logs_that_an_earlier_version_judged(paths) -> None:
    """It kept the ids alone: none is told anew."""
    client, report = UpdateFiles(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
        memory = json.loads(report.memory)
        memory["judged"] = [deployment for deployment, _ in memory["judged"]]
        memory["open"] = [subject for subject, _ in memory["open"]]
        del memory["stood"]
        again = JudgingReport(json.dumps(memory))
        again.states = report.states
        async with watched(paths, again):
            await moment()
            assert not again.alerts
            await succeed(client, "d2", "release-3")
            await again.until(lambda: again.alerts)
        assert told(again) == [(OK, FAILED, "release-2", "committed")]

    asyncio.run(scenario())


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
            await taken(paths)

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
            await taken(paths)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]
    assert "deployment: d1" in report.alerts[0].details.description


@pytest.mark.parametrize("logs", ["", "/data/logs"])
def test_a_client_whose_folders_are_elsewhere(paths, tmp_path, logs) -> None:
    """MENDER_CONF_DIR and MENDER_DATASTORE_DIR move clients 4 and 5."""
    moved = replace(paths, client_conf=tmp_path / "conf", client_store=tmp_path / "store")
    moved.client_conf.mkdir()
    moved.mender_conf.write_text(f'{{"UpdateLogPath": "{logs}"}}' if logs else "{}")
    where = paths.root / logs.lstrip("/") if logs else None
    if where is not None:
        where.mkdir(parents=True)
    client, report = UpdateFiles(moved.mender, "cpp", logs=where), JudgingReport()

    async def scenario() -> None:
        async with watched(moved, report):
            await fail(client, "one")
            await report.until(lambda: report.alerts)

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "rolled-back")]


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


@GENERATIONS
def test_only_the_name_tells_that_it_is_worse(paths, generation) -> None:
    """
    It was rolled back. Then somebody installed it by hand while the daemon was down, and it was not.
    """
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d1")
            await report.until(lambda: report.alerts)
        client.installed("release-2_INCONSISTENT")
        again = JudgingReport(report.memory)
        again.states = report.states
        async with watched(paths, again):
            await again.until(lambda: again.alerts)
            await moment()
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert [one.subject.status for one in report.alerts] == ["rolled-back", "inconsistent"]


def test_the_name_of_one_that_was_told_is_no_news(paths) -> None:
    """
    When it was told another deployment had begun, so that it was not known what is installed.
    """
    client, report = UpdateFiles(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            client.begin("d1")
            await moment()
            client.phase("update-install")
            await moment()
            client.end(success=False, artifact="release-2_INCONSISTENT")
            client.id = "d2"
            client._rotate()
            client.log("Deployment with ID d2 started.")
            await report.until(lambda: report.alerts)
            await moment()
            client.installed("release-2_INCONSISTENT")
            await moment()

    asyncio.run(scenario())
    assert told(report) == [(CRITICAL, FAILED, "release-2", "inconsistent")]


def test_a_second_check(paths) -> None:
    """One failure is one alert: the second says so, and begins when the first is disabled."""
    client, first, second = UpdateFiles(paths.mender, "cpp"), JudgingReport(), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, first):
            host = Host(paths, Clock())
            with pytest.raises(UnknownError, match="disable one"):
                await DeploymentCheck(Definition(CHECK, {}), Settings()).run(host, second)
            await host.aclose()
            await fail(client, "d1")
            await first.until(lambda: first.alerts)
        async with watched(paths, second):
            await fail(client, "d2")
            await second.until(lambda: second.alerts)

    asyncio.run(scenario())
    assert len(first.alerts) == len(second.alerts) == 1


def test_a_clock_that_was_set_back(paths) -> None:
    """
    The device booted with a clock of 1970. The newer failure is told last: the client numbers them.
    """
    client, report = UpdateFiles(paths.mender, "cpp"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await fail(client, "d0", "release-0")
            await report.until(lambda: report.alerts)
        await succeed(client, "d1", "release-2")
        await fail(client, "d2", "release-3")
        (log,) = paths.mender.glob("deployments.*.d2.log")
        os.utime(log, (1000, 1000))
        again = JudgingReport(report.memory)
        again.states = report.states
        async with watched(paths, again):
            await again.until(lambda: len(again.alerts) == 2)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert [(one.level, one.subject.name) for one in report.alerts] == [
        (CRITICAL, "release-0"),
        (OK, "release-0"),
        (CRITICAL, "d2"),
    ]


@GENERATIONS
def test_a_rollback_that_says_much(paths, generation) -> None:
    """The phase is told in a line long before the end, while the daemon is away."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report):
            await moment()
        client.begin("d1")
        client.log(
            "Process returned non-zero exit status: ArtifactInstall: Process exited with status 1", "error"
        )
        if generation == "go":
            client.log("State transition: update-install [ArtifactInstall] -> rollback [ArtifactRollback]")
        (log,) = paths.mender.glob("deployments.*.log")
        line = json.dumps({"level": "info", "message": "x" * 200, "timestamp": "2026-11-25T10:00:00Z"})
        with log.open("a") as file:
            file.write(f"{line}\n" * 4000)
        client.end(success=False, failed_in="")
        again = JudgingReport(report.memory)
        async with watched(paths, again):
            await again.until(lambda: again.alerts)
        report.alerts += again.alerts

    asyncio.run(scenario())
    assert [one.subject.status for one in report.alerts] == ["rolled-back"]
    assert "failed in ArtifactInstall\n" in report.alerts[0].details.description


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
