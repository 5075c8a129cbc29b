"""Deployments, restarts, power cuts and a store that flickers: what is held is told once, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mender_monitor_py import holding
from mender_monitor_py.holding import META
from mender_monitor_py.host import updates
from mender_monitor_py.model import CRITICAL, OK
from mender_monitor_py.paths import Paths
from tests.fakes.holding_run import ENTERED, LOGIN, PORT, PORTS, Run, ShiftedClock
from tests.fakes.update_files import UpdateFiles
from tests.fakes.watched import elapse

STEPS = st.one_of(
    st.tuples(
        st.sampled_from(["install", "reboot", "commit", "roll back", "flicker", "login", "open", "close"])
    ),
    st.tuples(st.just("restart"), st.booleans(), st.booleans()),
)


class Device:
    """A device with an update client, and the daemon that holds; what it did so far."""

    def __init__(self, paths: Paths, generation: Any) -> None:
        self.paths = paths
        self.client = UpdateFiles(paths.mender, generation)
        self.clock = ShiftedClock("boot-0")
        self.deployments = self.boots = self.logins = 0
        self.runs = self.port = False
        self._start()

    def _start(self) -> None:
        self.run = Run(self.paths, self.clock)
        self.ports, self.login = self.run.check(PORTS), self.run.check(LOGIN)

    async def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("install",):
                if self.runs:
                    return
                self.runs = True
                self.deployments += 1
                self.client.begin(f"d-{self.deployments}", f"release-{self.deployments}")
                self._phase("update-install")
            case ("reboot",) if self.runs:
                self._phase("reboot")
            case ("commit",) if self.runs:
                self.runs = False
                self.client.end(success=True, artifact=f"release-{self.deployments}")
            case ("roll back",) if self.runs:
                self.runs = False
                self._phase("rollback")
                self.client.end(success=False)
            case ("flicker",):
                store = self.client.folder / "mender-store"
                good = store.read_bytes()
                store.write_bytes(b"x" * len(good))
                await elapse(0.05)
                store.write_bytes(good)
            case ("login",):
                self.logins += 1
                name = f"Login {self.logins}"
                self.login.observe(replace(ENTERED, name=name, key=name))
            case ("open",) | ("close",):
                self.port = step == ("open",)
                self.ports.observe(PORT if self.port else replace(PORT, level=OK))
            case ("restart", bool(crash), bool(boot)):
                await self._stored()
                await self.run.end(crash=crash)
                if boot:
                    self.boots += 1
                    self.clock = ShiftedClock(f"boot-{self.boots}")
                self._start()
                self.ports.observe(PORT if self.port else replace(PORT, level=OK))
        await elapse(0.06)

    def _phase(self, name: str) -> None:
        self.client.phase(name, f"release-{self.deployments}")

    async def _stored(self) -> None:
        """The transaction that nobody waits for."""
        await elapse(0.03)
        await self.run.recorder.run_in_worker(lambda: None)

    async def end(self) -> None:
        """The deployment ends, and all is told that is due."""
        await self.do(("roll back",))
        await self.run.until(lambda: not self.run.holding.held and self.run.outbox.meta(META) == "")
        await self._stored()
        told = self.run.alerts()
        for number in range(1, self.logins + 1):
            assert told.count((CRITICAL, f"Login {number}")) == 1, (number, told)
        about = [level for level, name in told if name == PORT.name]
        assert (about[-1:] == [CRITICAL]) == self.port, told
        assert all(one != other for one, other in pairwise(about)), told
        await self.run.end()


UPDATE = [(name,) for name in ("login", "install", "login", "open", "reboot", "login", "commit", "login")]


@pytest.fixture
def play(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, list[tuple[Any, ...]]], None]:
    """A device that goes through some steps, and comes to rest."""
    monkeypatch.setattr(holding, "SETTLE_S", 0.1)
    monkeypatch.setattr(updates, "LAST_LINE_S", 0.1)

    def play(generation: str, steps: list[tuple[Any, ...]]) -> None:
        async def story() -> None:
            paths = Paths(tmp_path_factory.mktemp("root"))
            paths.run.mkdir(parents=True)
            device = Device(paths, generation)
            for step in steps:
                await device.do(step)
            await device.end()

        asyncio.run(story())

    return play


@pytest.mark.parametrize(("generation", "reboots"), [("go", True), ("cpp", False)])
@pytest.mark.parametrize("after", range(1, len(UPDATE) + 1))
def test_a_power_cut_after_each_step_of_an_update(
    play: Any, generation: str, reboots: bool, after: int
) -> None:
    """
    Or the daemon dies, and is started again.
    """
    play(generation, [*UPDATE[:after], ("restart", True, reboots), *UPDATE[after:]])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["go", "cpp"]), st.lists(STEPS, max_size=12))
def test_whatever_comes_after_what(play: Any, generation: str, steps: list[tuple[Any, ...]]) -> None:
    """
    No login is lost or told twice, the port is known as it is, and nothing stays held.
    """
    play(generation, steps)
