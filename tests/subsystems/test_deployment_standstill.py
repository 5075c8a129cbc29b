"""Deployments that neither end nor move, and those that only seem to."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from mender_monitor_py.model import CRITICAL, OK
from mender_monitor_py.subsystems.deployment import FAILED
from mender_monitor_py.subsystems.deploymentstandstill import STUCK
from tests.fakes.deployment_run import (
    GENERATIONS,
    BootClock,
    fail,
    hurry,
    moment,
    watched,
)
from tests.fakes.judging import JudgingReport
from tests.fakes.update_files import UpdateFiles


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nothing here comes late."""
    hurry(monkeypatch)


def test_one_that_is_stuck_and_moves_again(paths, monkeypatch) -> None:
    client, report = UpdateFiles(paths.mender, "go"), JudgingReport()

    async def scenario() -> None:
        async with watched(paths, report, DEPLOYMENT_STUCK="1s"):
            client.begin("d1")
            await report.until(lambda: report.alerts)
            client.phase("update-install")
            await report.until(lambda: len(report.alerts) >= 3)
            client.end(success=True, artifact="release-2")
            await report.until(lambda: len(report.alerts) == 4)

    asyncio.run(scenario())
    assert [(one.level, one.name, one.subject.name) for one in report.alerts] == [
        (CRITICAL, STUCK, "release-2"),
        (OK, STUCK, "release-2"),
    ] * 2


@pytest.mark.parametrize(
    ("hours", "up", "alerts"), [(1, 8, []), (3, 8, [STUCK]), (8, 1, []), (8, 3, [STUCK])]
)
def test_one_that_was_stuck_before_the_daemon_came(paths, hours, up, alerts) -> None:
    """
    The time counts over restarts of the daemon, since the client wrote last; not while the device was off.
    """
    client, report = UpdateFiles(paths.mender), JudgingReport()
    client.begin("d1")
    (log,) = paths.mender.glob("deployments.*.log")
    then = time.time() - hours * 3600
    os.utime(log, (then, then))

    async def scenario() -> None:
        async with watched(paths, report, BootClock("boot", up * 3600.0)):
            await moment()

    asyncio.run(scenario())
    assert [one.name for one in report.alerts] == alerts


@pytest.mark.parametrize(("writes", "alerts"), [(False, [STUCK]), (True, [])])
def test_a_device_that_boots_again_and_again(paths, writes, alerts) -> None:
    """
    It never runs for long. While its client goes on it moves; else the sixth boot is one too many.
    """
    client, report = UpdateFiles(paths.mender), JudgingReport()

    async def boot(number: int) -> JudgingReport:
        daemon = JudgingReport(report.memory)
        daemon.states = report.states
        async with watched(paths, daemon, BootClock(f"boot-{number}", 60.0)):
            await moment()
            if writes:
                client.phase("update-install")
                await moment()
        report.memory = daemon.memory
        report.alerts += daemon.alerts
        return daemon

    async def scenario() -> None:
        await boot(0)  # there is a memory
        client.begin("d1")
        for number in range(1, 6):
            await boot(number)
            assert not report.alerts
        await boot(6)
        await boot(7)
        if not writes:
            client.phase("update-install")
            await boot(8)
            assert [one.level for one in report.alerts] == [CRITICAL, OK]

    asyncio.run(scenario())
    assert [one.name for one in report.alerts if one.level == CRITICAL] == alerts


@GENERATIONS
def test_one_that_is_stuck_and_whose_store_cannot_be_read(paths, generation) -> None:
    """It is not known whether it moves: nothing is told, also not when it is as before."""
    client, report = UpdateFiles(paths.mender, generation), JudgingReport()
    store, away = paths.mender / "mender-store", paths.root / "away"

    async def scenario() -> None:
        async with watched(paths, report, DEPLOYMENT_STUCK="1s"):
            client.begin("d1")
            await report.until(lambda: report.alerts)
            whole, times = store.read_bytes(), store.stat()
            store.write_bytes(b"x" * 100_000)
            await report.until(lambda: report.reason)
            store.write_bytes(whole)
            await report.until(lambda: not report.reason)
            await moment()
        os.utime(store, ns=(times.st_atime_ns, times.st_mtime_ns))
        store.rename(away)
        again = JudgingReport(report.memory)
        again.states = report.states
        async with watched(paths, again, DEPLOYMENT_STUCK="1s"):
            assert not again.alerts
            away.rename(store)
            await again.until(lambda: again.notes["deployment"])
            await moment()
            assert not again.alerts
            client.phase("update-install")
            await again.until(lambda: again.alerts)
        report.alerts += again.alerts[:1]

    asyncio.run(scenario())
    assert [(one.level, one.name) for one in report.alerts] == [(CRITICAL, STUCK), (OK, STUCK)]
    assert "It moves again" in report.alerts[1].details.description


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
