"""A check that runs, and has looked once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.base import Check
from tests.fakes.judging import JudgingReport


@asynccontextmanager
async def watched(
    paths: Paths, check: Check, report: JudgingReport | None = None, *, knows: bool = True
) -> AsyncIterator[JudgingReport]:
    """*check* while it runs: once it *knows* its state, else once it has said anything."""
    report = report or JudgingReport()
    host = Host(paths, Clock())
    task = asyncio.get_running_loop().create_task(check.run(host, report))
    try:
        await report.until(
            lambda: (
                task.done()
                or report.reason == ""
                or (not knows and (report.reason != "starting" or report.notes))
            )
        )
        yield report
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await host.aclose()
