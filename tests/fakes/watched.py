"""Checks that run, until the end of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.replaced import Replaced, orphans
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.base import Check
from tests.fakes.judging import JudgingReport

TURN_S = 0.01


async def elapse(seconds: float) -> None:
    """
    So much time passes, for what waits in this event loop, too: it has many turns meanwhile.

    After a machine that stood still one sleep ends before a check has had the two or three turns of a look.
    """
    for _ in range(round(seconds / TURN_S)):
        await asyncio.sleep(TURN_S)


@asynccontextmanager
async def started(
    paths: Paths,
    check: Check,
    report: JudgingReport | None = None,
    *,
    clock: Clock | None = None,
    procfs: Procfs | None = None,
    replaced: Replaced | None = None,
) -> AsyncIterator[JudgingReport]:
    """*check* while it runs, with another *clock* or /proc, where deployments *replaced* files."""
    report = report or JudgingReport(expires_after=check.expires_after)
    host = Host(paths, clock or Clock())
    if procfs is not None:
        host._procfs = procfs
    host._replaced = replaced
    task = asyncio.get_running_loop().create_task(check.run(host, report))
    try:
        yield report
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await host.aclose()


def runs_on(replaced: Replaced, pid: int) -> None:
    """A deployment has replaced what *pid* runs."""
    replaced.add(one.file for one in orphans(Procfs()) if one.pid == pid)


@asynccontextmanager
async def looked(
    paths: Paths, check: Check, report: JudgingReport | None = None, **machine: Any
) -> AsyncIterator[JudgingReport]:
    """The same, once it has looked and said whether it knows."""
    report = report or JudgingReport(expires_after=check.expires_after)
    report.reason = "starting"
    async with started(paths, check, report, **machine):
        await report.until(lambda: report.reason != "starting")
        yield report


@asynccontextmanager
async def watched(
    paths: Paths, check: Check, report: JudgingReport | None = None, *, knows: bool = True, **machine: Any
) -> AsyncIterator[JudgingReport]:
    """The same, once it *knows* its state, else once it has said anything."""
    async with started(paths, check, report, **machine) as told:
        await told.until(
            lambda: told.reason == "" or (not knows and (told.reason != "starting" or told.notes))
        )
        yield told
