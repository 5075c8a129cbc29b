"""The part of the daemon that holds findings back, without its checks: for tests of what it goes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from mender_monitor_py.alertstate import Limits
from mender_monitor_py.holding import Holding
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, OK, CheckId, Details, Line, Observation, Stamp, Subject
from mender_monitor_py.outbox import Limits as OutboxLimits
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.quiet import Quiet
from mender_monitor_py.recorder import CheckReport, Recorder
from tests.fakes.update_files import UpdateFiles

SOON = 30.0
PORTS, LOGIN, DEPLOYMENT = CheckId("ports", "all"), CheckId("login", "root"), CheckId("deployment", "x")
PORT = Observation(CRITICAL, "Unexpected open port tcp/1", Subject("tcp/1 nc", "ports", "open"), key="tcp/1")
CLOSED = replace(PORT, level=OK)
ENTERED = Observation(
    CRITICAL,
    "Root login over ssh",
    Subject("root", "login", "accepted"),
    Details("from 10.0.0.1", line_matching=Line(7, "Accepted password")),
    event=True,
)
FAILED = Observation(CRITICAL, "Deployment failed", Subject("release-2", "deployment", "failed"))


class ShiftedClock(Clock):
    """A clock in a boot of the test's choice, *ahead* seconds from now."""

    def __init__(self, boot: str = "boot-1", ahead: float = 0.0) -> None:
        super().__init__()
        self.boot, self.ahead = boot, ahead

    def boottime(self) -> float:
        return super().boottime() + self.ahead

    def now(self) -> Stamp:
        now = super().now()
        return replace(now, boot_id=self.boot, wall=now.wall + self.ahead)


class Run:
    """A run of the part of the daemon that holds findings."""

    def __init__(self, paths: Any, clock: Clock | None = None, grace: float = 1800.0) -> None:
        self.clock = clock or ShiftedClock()
        self.host = Host(paths, self.clock)
        self.outbox = Outbox(paths.outbox, OutboxLimits(), self.clock)
        self.recorder = Recorder(self.outbox, self.clock, Limits(60, 8), lambda: None, lambda: None)
        self.recorder.load()
        self.holding = Holding(self.host, self.outbox, self.recorder.run_in_worker, grace, self._changed)
        self.holding.start()
        self._changed()

    def check(self, check: CheckId, expires_after: float | None = None) -> CheckReport:
        return self.recorder.start(check, expires_after)

    def alerts(self) -> list[tuple[str, str]]:
        return [(record.alert.level, record.alert.name) for record in self.outbox.records()]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0.02)  # other things than the recorder are waited for, too

    def _changed(self) -> None:
        self.recorder.set_quiet(Quiet(held=self.holding.held))

    async def end(self, *, crash: bool = False) -> None:
        await self.recorder.run_in_worker(lambda: None)
        await self.holding.aclose()
        if crash:  # nothing gets to the disk any more
            self.outbox.commit = lambda changes: None  # type: ignore[method-assign]
        else:
            self.holding.settle()
        await self.recorder.close()
        await self.host.aclose()
        self.outbox.close()


@asynccontextmanager
async def running(paths: Any, **options: Any) -> AsyncIterator[Run]:
    run = Run(paths, **options)
    try:
        yield run
    finally:
        await run.end()


def install(client: UpdateFiles, deployment: str = "d-1") -> None:
    client.begin(deployment)
    client.phase("update-install")


def commit(client: UpdateFiles) -> None:
    client.phase("update-commit")
    client.end(success=True, artifact="release-2")
