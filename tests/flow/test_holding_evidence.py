"""What is known of a deployment when it has ended, and is handed to who brings the lists up to it."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest

from mender_monitor_py import holding
from mender_monitor_py.deployed import Evidence
from mender_monitor_py.hold import Hold
from mender_monitor_py.holding import META
from mender_monitor_py.host.host import Host
from mender_monitor_py.replacedfiles import ReplacedFile
from tests.fakes.holding_run import PORT, PORTS, ShiftedClock, commit, install, running
from tests.fakes.update_files import UpdateFiles


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "SETTLE_S", 0.1)


@pytest.fixture(params=["go", "cpp"])
def client(paths: Any, request: pytest.FixtureRequest) -> UpdateFiles:
    paths.run.mkdir(parents=True, exist_ok=True)
    return UpdateFiles(paths.mender, request.param)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Evidence]:
    """What was handed over; no list is touched."""
    found: list[Evidence] = []

    async def rebaseline(_: Host, hold: Hold, evidence: Evidence) -> list[ReplacedFile]:
        found.append(evidence)
        return []

    monkeypatch.setattr(holding, "rebaseline", rebaseline)
    return found


def test_what_is_changed_after_the_grace_is_not_the_clients(
    paths: Any, client: UpdateFiles, known: list[Evidence]
) -> None:
    """
    Who writes is not seen any more then, though the deployment goes on and is committed at last.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.holding.set_grace(0.1)
            await run.until(lambda: not run.host.updating)
            over = run.clock.now().wall
            await asyncio.sleep(0.1)
            commit(client)
            await run.until(lambda: known)
            (evidence,) = known
            assert evidence.watched is not None
            assert evidence.watched <= over < evidence.ended
            await run.until(lambda: run.outbox.meta(META) == "")
            run.holding.set_grace(1800)
            install(client, "d-2")
            await run.until(lambda: run.holding.held)
            commit(client)
            await run.until(lambda: len(known) == 2)
            assert known[1].watched is None

    asyncio.run(story())


def test_another_deployment_right_behind_takes_nothing_from_the_lists(
    paths: Any, client: UpdateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    They follow the first one while the second installs, and then the second, each by its own artifact.
    """
    followed: list[tuple[str, list[str], bool]] = []

    async def rebaseline(_: Host, hold: Hold, evidence: Evidence) -> list[ReplacedFile]:
        began = len(followed)
        await asyncio.sleep(0.3)
        names = [name for names in evidence.payload.values() for name in names]
        followed.append((hold.id, names, began == len(followed)))
        return []

    monkeypatch.setattr(holding, "rebaseline", rebaseline)

    def bring(name: str) -> None:
        files = client.tree / "files"
        files.mkdir(parents=True)
        (files / name).write_text(name)

    async def story() -> None:
        async with running(paths) as run:
            bring("one")
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            subprocess.run(["rm", "-r", client.tree], check=True)
            commit(client)
            bring("two")
            install(client, "d-2")
            await run.until(lambda: (run.holding.status() or {}).get("deployment") == "d-2")
            await run.until(lambda: run.host.installing)
            await asyncio.sleep(0.1)
            assert run.alerts() == []
            commit(client)
            await run.until(run.alerts)
            assert [(deployment, alone) for deployment, _, alone in followed] == [
                ("d-1", True),
                ("d-2", True),
            ]
            # The first may be seen to end a moment after the second one's files are there.
            assert "one" in followed[0][1] and followed[1][1] == ["two"]

    asyncio.run(story())


def test_lists_that_cannot_be_followed_hold_nothing_back(
    paths: Any, client: UpdateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever goes wrong there: what was held is judged, and the hold is over.
    """

    async def rebaseline(_: Host, hold: Hold, evidence: Evidence) -> list[ReplacedFile]:
        raise KeyError("told")

    monkeypatch.setattr(holding, "rebaseline", rebaseline)

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            commit(client)
            await run.until(run.alerts)
            await run.until(lambda: not run.holding.held and run.outbox.meta(META) == "")
            assert not run.host.updating

    asyncio.run(story())


@pytest.mark.parametrize("booted", [False, True])
def test_an_image_that_was_not_booted_explains_nothing(
    paths: Any, known: list[Evidence], booted: bool
) -> None:
    """
    Who commits it by hand without a reboot still runs the old root file system, with all that is wrong there.
    """
    client = UpdateFiles(paths.mender, "cpp")

    async def story() -> None:
        async with running(paths) as run:
            client.standalone("release-2", PayloadTypes=["rootfs-image"])
            await run.until(lambda: run.holding.held)
        async with running(paths, clock=ShiftedClock("boot-2" if booted else "boot-1", 60)) as run:
            client.installed("release-2")
            client.standalone(None)
            await run.until(lambda: known)
        assert (known[0].image is not None) == booted

    asyncio.run(story())
