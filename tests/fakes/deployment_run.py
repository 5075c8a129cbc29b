"""The deployment check beside the files of an update client, and what it tells."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mender_monitor_py.host import updates
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CheckId, Stamp
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import deployment
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.deployment import DeploymentCheck
from tests.fakes.judging import SOON, JudgingReport
from tests.fakes.update_files import PROGRAM, UpdateFiles
from tests.fakes.watched import elapse

CHECK = CheckId("deployment", "mender")
GENERATIONS = pytest.mark.parametrize("generation", ["go", "cpp"])


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes late: what is waited for elsewhere is there at once."""
    monkeypatch.setattr(deployment, "SETTLE_S", 0.1)
    monkeypatch.setattr(updates, "RENAMED_S", 0.1)
    monkeypatch.setattr(updates, "_PROGRAMS", (PROGRAM,))


class BootClock(Clock):
    """That of a machine that has run for *up* seconds in its boot *boot*."""

    def __init__(self, boot: str, up: float) -> None:
        super().__init__()
        self._boot = boot
        self._since = Clock().running() - up

    def boottime(self) -> float:
        return self.running()

    def running(self) -> float:
        return super().running() - self._since

    def now(self) -> Stamp:
        return replace(super().now(), boot_id=self._boot)


@asynccontextmanager
async def watched(paths, report: JudgingReport, clock: Clock | None = None, **values: str):
    paths.state.mkdir(parents=True, exist_ok=True)
    host = Host(paths, clock or Clock())
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
    await elapse(0.1)


async def taken(paths) -> None:
    """What the scripts wrote was judged, and is gone."""
    async with asyncio.timeout(SOON):
        while list(paths.deployment_spool.iterdir()):
            await asyncio.sleep(0.02)
    await moment()


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
