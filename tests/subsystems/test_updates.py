"""The deployment that runs, from the files that the update client writes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mender_monitor_py.host import updates as host_updates
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.updateprogress import Change, Outcome
from tests.fakes.update_files import PROGRAM, UpdateFiles
from tests.fakes.watched import elapse

SOON = 30.0


@pytest.fixture(autouse=True)
def our_client(monkeypatch):
    monkeypatch.setattr(host_updates, "_PROGRAMS", (*host_updates._PROGRAMS, PROGRAM))


class Kept:
    """The changes that a listener was told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.stirred = 0
        self._more = asyncio.Event()

    def __call__(self, change: Change) -> None:
        self.changes.append(change)
        self._more.set()

    def stir(self) -> None:
        self.stirred += 1
        self._more.set()

    @property
    def phases(self) -> list[str]:
        return [str(change.outcome or change.update.phase) for change in self.changes]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def ended(self, outcome: Outcome) -> None:
        await self.until(lambda: self.changes and self.changes[-1].outcome is not None)
        assert self.changes[-1].outcome == outcome


@asynccontextmanager
async def listening(paths):
    host, kept = Host(paths, Clock()), Kept()
    undo = host.updates.listen(kept, kept.stir)
    try:
        yield host.updates, kept
    finally:
        undo()
        await host.aclose()


@pytest.mark.parametrize("generation", ["go", "cpp"])
@pytest.mark.parametrize("success", [True, False])
def test_a_deployment_from_begin_to_end(paths, generation, success) -> None:
    client = UpdateFiles(paths.mender, generation)

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            assert (updates.current, updates.unknown, updates.artifact) == (None, "", "release-1")
            client.begin("d1")
            await kept.until(lambda: kept.changes)
            begun = updates.current
            assert begun is not None
            assert (begun.id, begun.mode, begun.installing) == ("d1", "managed", False)
            assert begun.payload_types == ("test-module",)
            client.phase("update-install")
            await kept.until(lambda: kept.phases[-1] == "update-install")
            assert updates.current is not None
            assert updates.current.installing
            assert updates.current.since == begun.since
            if not success:
                client.phase("rollback")
                await kept.until(lambda: kept.phases[-1] == "rollback")
            client.end(success=success, artifact="release-2" if success else "")
            await kept.ended(Outcome.COMMITTED if success else Outcome.ROLLED_BACK)
            assert updates.current is None
            assert kept.changes[-1].failed_in == ("" if success else "update-install")

    asyncio.run(scenario())


def test_one_whose_log_gets_its_end_a_moment_later(paths) -> None:
    """The newer client removes its state first. What it installs anew has the same name before and after."""
    client = UpdateFiles(paths.mender, "cpp")

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            client.begin("d1", "release-1")
            client.phase("update-install", "release-1")
            await kept.until(lambda: "update-install" in kept.phases)
            last_line, client.log = client.log, lambda *_: None  # type: ignore[method-assign]
            client.end(success=True)
            await kept.until(lambda: updates.current is None)
            await elapse(0.1)
            assert kept.changes[-1].outcome is None and not updates.settled
            last_line("Deployment with ID d1 finished with status: Success")
            await kept.ended(Outcome.COMMITTED)

    asyncio.run(scenario())


@pytest.mark.parametrize("generation", ["go", "cpp"])
def test_one_that_is_not_rolled_back(paths, generation) -> None:
    client = UpdateFiles(paths.mender, generation)

    async def scenario() -> None:
        async with listening(paths) as (_, kept):
            client.begin("d1")
            client.phase("update-install", SupportsRollback="rollback-not-supported")
            await kept.until(lambda: "update-install" in kept.phases)
            client.phase("update-error")
            client.end(success=False, artifact="release-2_INCONSISTENT")
            await kept.ended(Outcome.INCONSISTENT)

    asyncio.run(scenario())


def test_all_comes_later_behind_a_dangling_link(paths) -> None:
    """The data partition is mounted, and the client installed, after the daemon began."""
    paths.mender.parent.mkdir(parents=True)
    data = paths.root / "data"
    paths.mender.symlink_to(data / "mender")

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            assert "no update client has run here" in updates.unknown
            client = UpdateFiles(data / "mender")
            await kept.until(lambda: not updates.unknown)
            client.begin("d1")
            await kept.until(lambda: kept.changes)
            assert updates.current is not None

    asyncio.run(scenario())


def test_a_deployment_under_way_when_we_come(paths) -> None:
    client = UpdateFiles(paths.mender, "go")
    client.begin("d1")
    client.phase("after-reboot")

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            found = updates.current
            assert found is not None
            assert (found.id, found.phase, found.installing) == ("d1", "after-reboot", True)
            assert found.since.wall == 1_795_600_800.0  # the log's first line
            assert not kept.changes
            client.end(success=True, artifact="release-2")
            await kept.ended(Outcome.COMMITTED)

    asyncio.run(scenario())


def test_by_hand_and_committed(paths) -> None:
    client = UpdateFiles(paths.mender, "go")

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            client.plant_tree("release-2")
            await kept.until(lambda: updates.current and updates.current.artifact)
            assert updates.current is not None
            assert (updates.current.mode, updates.current.installing) == ("standalone", True)
            client.standalone("release-2")
            client.standalone(None)
            client.installed("release-2")
            client.remove_tree()
            await kept.ended(Outcome.COMMITTED)

    asyncio.run(scenario())


@pytest.mark.parametrize("before", ["release-1", ""])
@pytest.mark.parametrize(
    ("installed", "outcome"), [("", Outcome.FAILED), ("release-2_INCONSISTENT", Outcome.INCONSISTENT)]
)
def test_by_hand_and_failed(paths, before, installed, outcome) -> None:
    """The work tree goes first; the artifact's name, if it gets another, comes last."""
    client = UpdateFiles(paths.mender, "go", before)

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            client.plant_tree("release-2")
            await kept.until(lambda: updates.current and updates.current.artifact)
            client.remove_tree()
            await kept.until(lambda: updates.current is None)
            if installed:
                client.installed(installed)
            await kept.ended(outcome)

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_data_partition_that_is_mounted_later(paths, monkeypatch) -> None:
    """No event tells of it: it is looked for now and then."""
    monkeypatch.setattr(host_updates, "ABSENT_S", 0.2)
    data = paths.root / "data"
    data.mkdir()
    paths.mender.parent.mkdir(parents=True)
    paths.mender.symlink_to(data / "mender")

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            subprocess.run(["mount", "-t", "tmpfs", "none", data], check=True)
            client = UpdateFiles(data / "mender")
            await kept.until(lambda: not updates.unknown)
            client.begin("d1")
            await kept.until(lambda: updates.current)

    try:
        asyncio.run(scenario())
    finally:
        subprocess.run(["umount", "--lazy", data], check=True)


def test_a_tree_that_was_left_behind_is_no_update(paths) -> None:
    """As the older client does with an artifact whose header it refuses."""
    client = UpdateFiles(paths.mender, "go")

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            client.begin("d1")
            client.plant_tree("release-2")
            client.kill()
            await kept.until(lambda: updates.current)
            client.end(success=False, failed_in="update-store")
            await kept.until(lambda: kept.changes and kept.changes[-1].outcome is not None)
            assert updates.current is None
        async with listening(paths) as (updates, kept):
            assert updates.current is None

    asyncio.run(scenario())


def test_what_calls_itself_the_client_is_none(tmp_path) -> None:
    """
    A user's program beside a tree that was left behind; one that he was given rights of, too, as by su(1).
    """
    us = os.geteuid()

    def is_one(real: int, effective: int) -> bool:
        process = tmp_path / "proc/7"
        process.mkdir(parents=True, exist_ok=True)
        (process / "cmdline").write_bytes(b"mender\0-s\0install\0root\0")
        (process / "status").write_text(
            f"Name:\tmender\nUid:\t{real}\t{effective}\t{effective}\t{effective}\n"
        )
        return host_updates._Installer(Procfs(tmp_path)).runs()

    assert is_one(us, us)
    assert not is_one(us + 1, us + 1) and not is_one(us + 1, us)


def test_a_configuration_that_is_no_file_holds_nobody_up(paths) -> None:
    """
    A pipe without a writer would be waited for.
    """
    client = UpdateFiles(paths.mender, "cpp")
    os.mkfifo(paths.mender_fallback_conf)
    paths.mender_conf.parent.mkdir(parents=True)
    os.mkfifo(paths.mender_conf)
    signal.alarm(int(SOON))

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            client.begin("d1")
            await kept.until(lambda: updates.current)

    try:
        asyncio.run(scenario())
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("name", [" release 2 ", "é" * 200])
def test_a_name_is_the_same_in_tree_and_store(paths, name) -> None:
    """
    With blanks around it, or longer in bytes than it has letters: it is one deployment.
    """
    client = UpdateFiles(paths.mender)

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            client.plant_tree(name)
            await kept.until(lambda: updates.current and updates.current.artifact)
            begun = updates.current
            client.standalone(name)
            await kept.until(lambda: updates.current and updates.current.phase)
            assert begun is not None and updates.current is not None
            assert (updates.current.artifact, updates.current.since) == (name, begun.since)

    try:
        asyncio.run(scenario())
    finally:
        client.kill()


def test_another_folder_for_the_logs(paths, tmp_path) -> None:
    client = UpdateFiles(paths.mender, "cpp")
    logs = paths.root / "logs"
    paths.mender_conf.parent.mkdir(parents=True)
    paths.mender_conf.write_text('{"UpdateLogPath": "/logs"}')

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            before = kept.stirred
            logs.mkdir()
            elsewhere = UpdateFiles(logs, "cpp")
            elsewhere.id = "d7"
            elsewhere.log("Deployment with ID d7 started.")
            await kept.until(lambda: kept.stirred > before and updates.logs())
            assert [file.deployment for file in updates.logs()] == ["d7"]

    del client
    asyncio.run(scenario())


def test_a_store_that_is_damaged_is_unknown_and_comes_back(paths) -> None:
    client = UpdateFiles(paths.mender)
    store: Path = paths.mender / "mender-store"

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):
            client.begin("d1")
            await kept.until(lambda: updates.current)
            good = store.read_bytes()
            store.write_bytes(b"x" * len(good))
            await kept.ended(Outcome.UNKNOWN)
            assert updates.current is None
            assert "no LMDB file" in updates.unknown
            store.write_bytes(good)
            await kept.until(lambda: updates.current)
            assert not updates.unknown

    asyncio.run(scenario())


def test_the_installer_ends_while_it_is_looked_at(paths, monkeypatch) -> None:
    """Its last word came after the store was read, and before its process was looked for: it goes on."""
    client = UpdateFiles(paths.mender)
    client.plant_tree("release-2")

    async def scenario() -> None:
        async with listening(paths) as (updates, kept):

            def ends(self) -> bool:
                client.standalone("release-2")
                return False

            monkeypatch.setattr(host_updates._Installer, "runs", ends)
            updates._look()
            assert updates.current is not None and updates.current.artifact == "release-2"
            await kept.until(lambda: kept.changes)
            assert all(change.outcome is None for change in kept.changes)

    try:
        asyncio.run(scenario())
    finally:
        client.kill()
