"""Deployments by a client that logs warnings and errors only: its logs have no end."""

from __future__ import annotations

import asyncio

import pytest

from mender_monitor_py.model import CRITICAL, OK
from mender_monitor_py.subsystems.deployment import FAILED
from tests.fakes.deployment_run import (
    GENERATIONS,
    fail,
    hurry,
    moment,
    script,
    succeed,
    told,
    watched,
)
from tests.fakes.judging import JudgingReport
from tests.fakes.update_files import UpdateFiles
from tests.fakes.watched import elapse


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nothing here comes late."""
    hurry(monkeypatch)


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
            await elapse(0.4)
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
            await elapse(0.4)
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
