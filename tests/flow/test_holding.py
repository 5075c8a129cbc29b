"""Findings while the update client installs: held back over whatever happens, and then judged."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py import holding
from mender_monitor_py.hold import Hold
from mender_monitor_py.holding import META, PAYLOAD, REPLACED
from mender_monitor_py.model import CRITICAL, OK
from tests.fakes.holding_run import (
    CLOSED,
    DEPLOYMENT,
    ENTERED,
    FAILED,
    LOGIN,
    PORT,
    PORTS,
    SOON,
    Run,
    ShiftedClock,
    commit,
    install,
    running,
)
from tests.fakes.update_files import UpdateFiles
from tests.fakes.watched import elapse


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "SETTLE_S", 0.1)


@pytest.fixture(params=["go", "cpp"])
def client(paths: Any, request: pytest.FixtureRequest) -> UpdateFiles:
    paths.run.mkdir(parents=True, exist_ok=True)
    return UpdateFiles(paths.mender, request.param)


def test_what_is_gone_by_the_end_is_not_told(paths: Any, client: UpdateFiles) -> None:
    """
    A service that the deployment stops and starts, a port that it opens and closes: nothing is told.
    """

    async def story() -> None:
        async with running(paths) as run:
            ports = run.check(PORTS)
            install(client)
            await run.until(lambda: run.holding.held)
            shown = run.holding.status()
            assert shown is not None and shown["artifact"] == "release-2" and shown["outcome"] == ""
            ports.observe(PORT)
            ports.observe(CLOSED)
            commit(client)
            await run.until(lambda: not run.holding.held)
            assert run.alerts() == []
            ports.observe(PORT)
            await run.until(run.alerts)
            assert run.alerts() == [(CRITICAL, PORT.name)]

    asyncio.run(story())


@pytest.mark.parametrize("success", [True, False])
def test_what_is_still_so_is_told_with_its_own_time(paths: Any, client: UpdateFiles, success: bool) -> None:
    """
    After a commit and after a rollback: a finding that is left is told, with the time at which it began; a
    login too, with its line, though its expiration has passed; what was CRITICAL before is not told again.
    """

    async def story() -> None:
        clock = ShiftedClock()
        async with running(paths, clock=clock) as run:
            ports, login = run.check(PORTS), run.check(LOGIN, 60)
            before = replace(PORT, name="Unexpected open port tcp/2", key="tcp/2")
            ports.observe(before)
            await run.until(run.alerts)
            install(client)
            await run.until(lambda: run.holding.held)
            began = clock.now().wall
            ports.observe(before)
            ports.observe(PORT)
            login.observe(ENTERED)
            run.check(DEPLOYMENT).observe(FAILED)
            clock.ahead = 300
            if success:
                commit(client)
            else:
                client.phase("rollback")
                client.end(success=False)
            await run.until(lambda: not run.holding.held and len(run.alerts()) >= 5)
            first, at_once, *held = run.outbox.records()
            assert (first.alert.name, at_once.alert.name) == (before.name, FAILED.name)
            told = {(one.alert.level, one.alert.name): one for one in held}
            assert sorted(told) == sorted(
                [(CRITICAL, PORT.name), (CRITICAL, ENTERED.name), (OK, ENTERED.name)]
            )
            assert abs(told[CRITICAL, PORT.name].at.wall - began) < 60
            assert told[CRITICAL, ENTERED.name].alert.details == ENTERED.details
            assert abs(told[CRITICAL, ENTERED.name].at.wall - began) < 60
            assert told[OK, ENTERED.name].at.wall > began + 200

    asyncio.run(story())


def test_the_artifact_is_known_when_the_next_daemon_comes_too_late_for_it(
    paths: Any, client: UpdateFiles
) -> None:
    """
    After the reboot of an update the client may commit and clean up before the daemon runs.
    """

    async def story() -> None:
        files = client.tree / "files"
        files.mkdir(parents=True)
        (files / "tool").write_text("tool")
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
        commit(client)
        subprocess.run(["rm", "-r", client.tree], check=True)
        async with running(paths, clock=ShiftedClock("boot-2", 60)) as after:
            assert [list(names) for names in after.host.installation.payload.values()] == [["tool"]]
            await after.until(lambda: not after.holding.held)
            await after.until(lambda: after.outbox.meta(PAYLOAD) == "")
            install(client, "d-2")
            await after.until(lambda: after.holding.held)
            assert after.host.installation.payload == {}

    asyncio.run(story())


def test_what_runs_on_after_it_was_replaced_is_known_until_the_boot_ends(
    paths: Any, client: UpdateFiles, tmp_path: Path
) -> None:
    """
    Over a restart of the daemon, too; not what somebody else replaced.
    """
    new = Path("/bin/sleep").read_bytes() + b"release-2"
    names = ("agent", "other")

    def put(name: str, content: bytes) -> None:
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").chmod(0o755)
        (tmp_path / "new").rename(tmp_path / name)

    async def story() -> None:
        pids = [process.pid for process in processes]
        async with running(paths) as run:
            (client.tree / "files").mkdir(parents=True)
            (client.tree / "files/agent").write_bytes(new)
            install(client)
            await run.until(lambda: run.holding.held)
            put("agent", new)
            put("other", b"evil")
            await run.until(lambda: run.host.installation._files)
            commit(client)
            await run.until(lambda: not run.holding.held)
            assert [run.host.replaced.path(pid) for pid in pids] == [str(tmp_path / "agent"), ""]
        async with running(paths) as after:
            assert [after.host.replaced.path(pid) for pid in pids] == [str(tmp_path / "agent"), ""]
        async with running(paths, clock=ShiftedClock("boot-2", 60)) as after:
            assert after.host.replaced.files == []
            await after.until(lambda: after.outbox.meta(REPLACED) == "")

    for name in names:
        put(name, Path("/bin/sleep").read_bytes())
    processes = [subprocess.Popen([tmp_path / name, "600"]) for name in names]
    try:
        asyncio.run(story())
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("crash", [True, False])
@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize("ends", ["meanwhile", "later"])
def test_it_goes_on_over_a_restart_and_a_reboot(
    paths: Any, client: UpdateFiles, crash: bool, boot: str, ends: str
) -> None:
    """
    The daemon ends, or dies, or the device reboots: what is held is there afterwards, and is told at the end,
    also if that came while nobody looked.
    """

    async def story() -> None:
        run = Run(paths)
        install(client)
        await run.until(lambda: run.holding.held)
        run.check(PORTS).observe(PORT)
        await run.recorder.run_in_worker(lambda: None)
        await elapse(0.1)  # the transaction that nobody waits for
        began = run.clock.now().wall
        await run.end(crash=crash)
        if ends == "meanwhile":
            commit(client)
        async with running(paths, clock=ShiftedClock(boot, 60)) as after:
            after.check(PORTS).observe(PORT)
            assert after.holding.held and after.alerts() == []
            if ends == "later":
                await elapse(0.1)
                assert after.alerts() == []
                commit(client)
            await after.until(after.alerts)
            (told,) = after.outbox.records()
            assert told.alert.name == PORT.name and abs(told.at.wall - began) < 30

    asyncio.run(story())


def test_what_it_did_while_the_daemon_was_stopped_is_still_its_own(paths: Any, client: UpdateFiles) -> None:
    """A service that it has restarted meanwhile is met when the client has done all."""

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
        client.phase("rollback")
        client.end(success=False, failed_in="update-install")
        async with running(paths) as run:
            assert run.host.installing
            await run.until(lambda: not run.holding.held)
            assert not run.host.installing

    asyncio.run(story())


def test_a_store_that_cannot_be_read_yet_ends_nothing(paths: Any, client: UpdateFiles) -> None:
    """
    The next daemon may come before the client's data: then the hold goes on until it is known how it ended.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
        commit(client)
        store = client.folder / "mender-store"
        store.rename(away := client.folder.parent / "away")
        async with running(paths, clock=ShiftedClock("boot-2", 60)) as after:
            ports = after.check(PORTS)
            ports.observe(PORT)
            await elapse(0.5)
            assert after.holding.held and after.alerts() == []
            away.rename(store)
            await after.until(lambda: (after.holding.status() or {}).get("outcome") == "committed")
            await after.until(after.alerts)
            ports.known()

    asyncio.run(story())


def test_a_deployment_that_does_not_end_holds_nothing_for_ever(paths: Any, client: UpdateFiles) -> None:
    """
    After DEPLOYMENT_GRACE all is told, and what is new at once, though the deployment goes on; also after a
    restart.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            run.holding.set_grace(0.5)
            await run.until(run.alerts)
            assert run.alerts() == [(CRITICAL, PORT.name)] and not run.holding.held
            client.phase("reboot")
            run.check(LOGIN).observe(ENTERED)
            await run.until(lambda: len(run.alerts()) == 2)
        async with running(paths, grace=1800) as run:
            assert not run.holding.held
            commit(client)
            await run.until(lambda: run.outbox.meta(META) == "")

    asyncio.run(story())


def test_a_download_holds_nothing_back(paths: Any, client: UpdateFiles) -> None:
    """
    Before the device is changed findings are told; a deployment that fails there is none that holds. What
    the client starts meanwhile is its own: modules have work to do then.
    """

    async def story() -> None:
        async with running(paths) as run:
            client.begin("d-1")
            await run.until(lambda: run.host.updating)
            run.check(PORTS).observe(PORT)
            await run.until(run.alerts)
            assert not run.host.installing
            client.end(success=False, failed_in="update-fetch")
            await run.until(lambda: not run.host.updating)
            assert not run.holding.held
        client.begin("d-2")
        async with running(paths) as run:
            assert run.host.updating
            install(client, "d-2")
            await run.until(lambda: run.holding.held and run.host.installing)
            commit(client)
            await run.until(lambda: not run.holding.held)
            client.begin("d-3")
            await run.until(lambda: run.host.updating)

    asyncio.run(story())


def test_another_deployment_right_behind_goes_on_holding(paths: Any, client: UpdateFiles) -> None:
    """
    What the first one has left is told when the second one has ended.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            commit(client)
            install(client, "d-2")
            await run.until(lambda: (run.holding.status() or {}).get("deployment") == "d-2")
            await elapse(0.3)
            assert run.alerts() == []
            client.end(success=False)
            await run.until(run.alerts)

    asyncio.run(story())


def test_a_store_that_cannot_be_read_for_a_moment_ends_nothing(paths: Any, client: UpdateFiles) -> None:
    """
    Whether the deployment goes on is not known then: what is held stays so, and the evidence with it.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            began = (run.holding.status() or {})["since"]
            run.check(PORTS).observe(PORT)
            store = client.folder / "mender-store"
            good = store.read_bytes()
            store.write_bytes(b"x" * len(good))
            await run.until(lambda: run.host.updates.unknown)
            await elapse(0.4)
            assert run.holding.held and run.alerts() == []
            store.write_bytes(good)
            await run.until(lambda: run.host.updates.current)
            await elapse(0.4)
            shown = run.holding.status()
            assert shown is not None and (shown["outcome"], run.alerts()) == ("", [])
            assert abs(shown["since"] - began) < 0.01
            store.write_bytes(b"x" * len(good))
            await run.until(lambda: run.host.updates.unknown)
            store.unlink()
            client.phase("update-commit")
            client.end(success=True, artifact="release-2")
            await run.until(run.alerts)

    asyncio.run(story())


def test_no_grace_is_no_hold(paths: Any, client: UpdateFiles) -> None:
    """
    DEPLOYMENT_GRACE=0: everything is told at once.
    """

    async def story() -> None:
        async with running(paths, grace=0) as run:
            install(client)
            await run.until(lambda: run.host.updates.current is not None)
            run.check(PORTS).observe(PORT)
            await run.until(run.alerts)

    asyncio.run(story())


def test_a_slow_disk_loses_nothing_of_a_hold(paths: Any, client: UpdateFiles) -> None:
    """
    The daemon ends before it is written down that the deployment has begun.
    """

    async def story() -> None:
        run = Run(paths)
        written = threading.Event()

        def wait() -> None:
            written.wait(SOON)

        slow = asyncio.create_task(run.recorder.run_in_worker(wait))
        install(client)
        await run.until(lambda: run.holding.held)
        ending = asyncio.create_task(run.holding.aclose())
        await asyncio.sleep(0.05)
        written.set()
        await asyncio.gather(slow, ending)
        assert Hold.from_text(run.outbox.meta(META)) is not None
        await run.end()

    asyncio.run(story())
