"""When a silence or a hold has ended each check looks first: what is over by then is not told."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py import holding
from mender_monitor_py.alertstate import Limits
from mender_monitor_py.checkrecords import Record
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import sysvinit, wireless
from mender_monitor_py.host.fileevents import FileEvents
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.mainprocess import Found
from mender_monitor_py.host.openports import OpenPorts
from mender_monitor_py.host.pathwatch import PathWatch
from mender_monitor_py.host.wireless import Look
from mender_monitor_py.model import CRITICAL, OK, CheckId, Observation, Subject
from mender_monitor_py.nl80211 import Network
from mender_monitor_py.outbox import Limits as Bounds
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.portlist import Listener
from mender_monitor_py.quiet import Quiet
from mender_monitor_py.recorder import LOOK_MOST_S, CheckReport, Recorder
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import connectivity, diskusage, pid, process, service
from mender_monitor_py.subsystems.base import Check, Definition
from mender_monitor_py.subsystems.integrity import IntegrityCheck
from mender_monitor_py.subsystems.ports import PortsCheck
from mender_monitor_py.subsystems.setuid import SetuidCheck
from mender_monitor_py.subsystems.wifi import WifiCheck
from mender_monitor_py.wifisecurity import Security
from tests.fakes.holding_run import ShiftedClock, commit, install, running
from tests.fakes.process_checks import check as process_check
from tests.fakes.process_checks import without_events
from tests.fakes.update_files import UpdateFiles

SOON = 30.0
HOUR = 3600.0
CHECK = CheckId("ports", "all")
FULL = Observation(CRITICAL, "The disk is full", Subject("/", "disk", "full"))
LOGIN = Observation(CRITICAL, "Root login", Subject("root", "login", "accepted"), key="login", event=True)


class Silenced:
    """Everything is silent, until :meth:`speak`. The outbox is a real one; the time may be put forward."""

    def __init__(self, paths: Any, outbox: Outbox, clock: ShiftedClock) -> None:
        self.outbox, self.clock = outbox, clock
        self.host = Host(paths, clock)
        self.recorder = Recorder(outbox, clock, Limits(60, 1000), lambda: None, lambda: None)
        self.recorder.load()
        self.tasks: list[asyncio.Task[None]] = []
        self.recorder.set_quiet(Quiet(everything=clock.boottime() + HOUR))

    def speak(self) -> None:
        self.recorder.set_quiet(Quiet())

    def run(
        self, check: CheckId, watch: Callable[[CheckReport], Any], expires: float | None = None
    ) -> Record:
        report = self.recorder.start(check, expires)
        self.tasks.append(asyncio.get_running_loop().create_task(watch(report)))
        record = self.recorder.record(check)
        assert record is not None
        return record

    def alerts(self) -> list[tuple[str, str]]:
        return [(record.alert.level, record.alert.name) for record in self.outbox.records()]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON):
            while not condition():
                for task in self.tasks:
                    assert not task.done(), task.exception()
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        await self.recorder.close()
        await self.host.aclose()


@asynccontextmanager
async def silenced(paths: Any) -> AsyncIterator[Silenced]:
    clock = ShiftedClock()
    with closing(Outbox(paths.outbox, Bounds(), clock)) as outbox:
        run = Silenced(paths, outbox, clock)
        try:
            yield run
        finally:
            await run.end()


async def settled(recorder: Recorder) -> None:
    """What was decided is on the disk, and whoever was woken has had his turn."""
    for _ in range(5):
        await recorder.run_in_worker(lambda: None)
        await asyncio.sleep(0)


def kept_back(record: Record) -> bool:
    return any(state.kept_back for state in record.states.values())


class Hourly:
    """A check that looks once an hour, and what there is to see."""

    def __init__(self) -> None:
        self.sees: Observation = FULL
        self.unknown = ""
        self.looks = 0
        self.goes_on: asyncio.Event | None = None  # a look takes until this is set

    async def __call__(self, report: CheckReport) -> None:
        wake = asyncio.Event()
        while True:
            wake.clear()
            self.looks += 1
            if self.unknown:
                report.unknown(self.unknown)
            elif self.goes_on is None or self.goes_on.is_set():
                report.observe(self.sees)
            await report.pause(HOUR, wake, looked=self.goes_on is None or self.goes_on.is_set())


async def _looked(run: Silenced, check: Hourly) -> Record:
    """*check* has had a look in the silence, and sleeps."""
    record = run.run(CHECK, check)
    await run.until(lambda: record.looks and check.looks)
    return record


@pytest.mark.parametrize("over", [True, False])
def test_a_check_looks_before_what_it_kept_back_is_told(paths, over: bool) -> None:
    async def story() -> None:
        async with silenced(paths) as run:
            check = Hourly()
            record = await _looked(run, check)
            began = run.clock.boottime()
            run.clock.ahead = 100.0
            run.recorder.set_quiet(run.recorder.quiet)
            await settled(run.recorder)
            assert check.looks == 1
            if over:
                check.sees = replace(FULL, level=OK)
            run.speak()
            assert run.alerts() == []
            await run.until(lambda: not kept_back(record))
            await settled(run.recorder)
            await run.until(lambda: len(run.alerts()) == (0 if over else 1))
            assert check.looks == 2
            for stored in run.outbox.records():
                assert (stored.alert.level, stored.alert.name) == (CRITICAL, FULL.name)
                assert abs(stored.at.boottime - began) < 50  # and not when it was told

    asyncio.run(story())


def test_a_check_that_kept_nothing_back_is_left_alone(paths) -> None:
    async def story() -> None:
        async with silenced(paths) as run:
            check = Hourly()
            check.sees = replace(FULL, level=OK)
            await _looked(run, check)
            run.speak()
            await settled(run.recorder)
            assert check.looks == 1

    asyncio.run(story())


def test_an_event_is_told_at_once(paths) -> None:
    async def story() -> None:
        async with silenced(paths) as run:
            check = Hourly()
            check.sees = LOGIN
            await _looked(run, check)
            run.speak()
            await run.until(lambda: run.alerts() == [(CRITICAL, LOGIN.name)])
            assert check.looks == 1

    asyncio.run(story())


def test_a_long_look_is_waited_for_but_not_for_ever(paths) -> None:
    """
    Nor is not knowing an answer.
    """

    async def story() -> None:
        async with silenced(paths) as run:
            check = Hourly()
            record = await _looked(run, check)
            check.unknown = "the disk does not answer"
            run.speak()
            await run.until(lambda: check.looks == 2)
            check.unknown, check.goes_on = "", asyncio.Event()
            record.wake.set()
            await run.until(lambda: check.looks == 3)
            run.clock.ahead = LOOK_MOST_S - 60
            run.recorder.set_quiet(Quiet())
            assert kept_back(record)
            run.clock.ahead = LOOK_MOST_S + 60
            run.recorder.set_quiet(Quiet())
            assert not kept_back(record)
            await run.until(lambda: run.alerts() == [(CRITICAL, FULL.name)])

    asyncio.run(story())


def test_another_silence_that_begins_meanwhile_is_kept(paths) -> None:
    """
    And at its end the check looks anew.
    """

    async def story() -> None:
        async with silenced(paths) as run:
            check = Hourly()
            record = await _looked(run, check)
            run.speak()
            run.recorder.set_quiet(Quiet(held=True))
            await run.until(lambda: check.looks == 2)
            run.clock.ahead = 2 * LOOK_MOST_S
            run.recorder.set_quiet(Quiet(held=True))
            assert kept_back(record)
            check.sees = replace(FULL, level=OK)
            run.speak()
            await run.until(lambda: not kept_back(record))
            await settled(run.recorder)
            assert run.alerts() == []

    asyncio.run(story())


@pytest.mark.parametrize("ends", ["disabled", "enabled"])
def test_a_check_that_does_not_run_any_more_is_not_waited_for(paths, ends: str) -> None:
    async def story() -> None:
        async with silenced(paths) as run:
            check = Hourly()
            record = await _looked(run, check)
            check.unknown = "the disk does not answer"
            run.speak()
            run.recorder.stop(CHECK)
            if ends == "enabled":
                again = Hourly()
                again.goes_on = asyncio.Event()
                run.run(CHECK, again)
                await run.until(lambda: again.looks)
            run.clock.ahead = 60.0
            run.recorder.set_quiet(Quiet())
            assert kept_back(record) == (ends == "enabled")  # it looks still

    asyncio.run(story())


def test_the_hold_of_a_deployment_ends_so_too(paths, monkeypatch) -> None:
    monkeypatch.setattr(holding, "SETTLE_S", 0.0)
    paths.run.mkdir(parents=True, exist_ok=True)
    client = UpdateFiles(paths.mender, "cpp")

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            check = Hourly()
            task = asyncio.get_running_loop().create_task(check(run.check(CHECK)))
            await run.until(lambda: check.looks)
            check.sees = replace(FULL, level=OK)
            commit(client)
            await run.until(lambda: check.looks == 2)
            task.cancel()
            await asyncio.wait([task])
            await settled(run.recorder)
            assert run.alerts() == []

    asyncio.run(story())


# The subsystems


@dataclass
class Device:
    """A check that finds something, and what ends that in a way of which no event tells."""

    check: Check
    mend: Callable[[], object]
    end: Callable[[], object] = lambda: None
    about: str = ""  # what of the machine's own the check may find is not meant


def _definition(name: str, **values: str) -> Definition:
    return Definition(CheckId(name, "x"), values)


def _diskusage(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    used = [95]

    async def percent(_: str) -> int:
        return used[0]

    patch.setattr(diskusage, "used_percent", percent)
    given = _definition("diskusage", DISKUSAGE_NAME="/", DISKUSAGE_INTERVAL="3600")
    return Device(diskusage.DiskUsageCheck(given, Settings()), lambda: used.__setitem__(0, 50))


def _connectivity(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    failures = ["refused"]

    async def failure(self: object, host: Host) -> str:
        return failures[0]

    patch.setattr(connectivity.ConnectivityCheck, "_failure", failure)
    patch.setattr(connectivity, "RETRY_S", 0.0)
    given = _definition("connectivity", CONNECTIVITY_URL="http://a.example/", CONNECTIVITY_INTERVAL="3600")
    return Device(connectivity.ConnectivityCheck(given, Settings()), lambda: failures.__setitem__(0, ""))


def _service(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    reasons = ["it does not run"]

    async def stopped_because(*_: object) -> str:
        return reasons[0]

    async def at_once(_: Host) -> bool:
        return False

    patch.setattr(sysvinit, "stopped_because", stopped_because)
    patch.setattr(service, "_quiet", at_once)
    patch.setattr(service, "_SECOND_LOOK_S", 0.0)
    given = _definition("service", SERVICE_TYPE="sysV")
    made = service.ServiceCheck(given, Settings(shell_subsystem_interval=HOUR))
    return Device(made, lambda: reasons.__setitem__(0, ""))


def _ports(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    listeners = [Listener("tcp", 4444, "0.0.0.0")]
    patch.setattr(OpenPorts, "look", lambda self, wanted, *, again=False: list(listeners))
    given = _definition("ports", PORTS_ALLOW="tcp 1 none /none", PORTS_INTERVAL="1h")
    return Device(PortsCheck(given, Settings()), listeners.clear)


def _pid(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    without_events(patch)
    here = [False]

    def find(procfs: Any, path: str) -> Any:
        return Found(procfs.stat(os.getpid()) if here[0] else None, "nothing runs it")

    patch.setattr(pid, "by_executable", find)
    patch.setattr(pid, "BOOT_S", 0.0)
    patch.setattr(pid._Watch, "_going_down", _no)
    given = _definition("pid", PID_EXE="/opt/tool", PID_GRACE="0", PID_INTERVAL="1h")
    return Device(pid.PidCheck(given, Settings()), lambda: here.__setitem__(0, True))


async def _no(self: object) -> bool:
    return False


def _process(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    if os.geteuid() != 0:
        pytest.skip("needs root to see all processes")
    without_events(patch)
    patch.setattr(process, "POLLED_S", HOUR)
    patch.setattr(process._Watch, "_has_lasted", lambda self, pid: True)
    tool = folder / "tool"
    shutil.copy("/bin/sleep", tool)
    running_one = subprocess.Popen([tool, "600"])

    def stop() -> None:
        running_one.kill()
        running_one.wait()

    return Device(process_check(folder), stop, stop, about=str(tool))


def _setuid(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    _blind(patch)
    tool = folder / "tool"
    shutil.copy("/bin/sleep", tool)
    tool.chmod(0o4755)
    given = _definition("setuid", SETUID_PATHS=str(folder), SETUID_ALLOW="/none", SETUID_INTERVAL="1h")
    return Device(SetuidCheck(given, Settings()), lambda: tool.chmod(0o755))


def _integrity(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    _blind(patch)
    tool = folder / "tool"
    tool.write_text("as expected")
    digest = subprocess.run(["sha256sum", tool], check=True, capture_output=True, text=True).stdout.split()[0]
    tool.write_text("another one")
    entry = f"{digest} * * * * {tool}"
    given = _definition(
        "integrity", INTEGRITY_FILES=str(tool), INTEGRITY_ALLOW=entry, INTEGRITY_INTERVAL="1h"
    )
    return Device(IntegrityCheck(given, Settings()), lambda: tool.write_text("as expected"))


def _blind(patch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise UnknownError("no fanotify here")

    patch.setattr(FileEvents, "__init__", denied)
    patch.setattr(PathWatch, "watch", lambda *_: None)


def _wifi(folder: Path, patch: pytest.MonkeyPatch) -> Device:
    shown = [Look(None, 3, reason="wlan0 is not connected")]
    patch.setattr(wireless, "look", lambda _: shown[0])
    patch.setattr("mender_monitor_py.subsystems.wifi.LOOK_S", HOUR)
    network = Network(b"home", "02:00:00:00:00:00", 2412, Security(2, "WPA2 (PSK)"), -40.0)
    made = WifiCheck(
        _definition("wifi", WIFI_INTERFACE="wlan0", WIFI_GRACE="0", WIFI_REQUIRE="yes"), Settings()
    )
    return Device(made, lambda: shown.__setitem__(0, Look(None, 3, network, authorised=True)))


DEVICES = [_diskusage, _connectivity, _service, _ports, _pid, _process, _setuid, _integrity, _wifi]


@pytest.mark.parametrize("mended", [True, False])
@pytest.mark.parametrize("make", DEVICES, ids=lambda make: make.__name__.strip("_"))
def test_each_subsystem_looks_again(paths, tmp_path, monkeypatch, make, mended: bool) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    paths.run.mkdir(parents=True, exist_ok=True)
    device: Device = make(folder, monkeypatch)

    async def story() -> None:
        async with silenced(paths) as run:
            record = run.run(device.check.id, lambda report: device.check.run(run.host, report))
            await run.until(lambda: record.looks and kept_back(record))
            if mended:
                device.mend()
            run.speak()
            assert kept_back(record)
            await run.until(lambda: not kept_back(record))
            await settled(run.recorder)
            assert any(device.about in name for _, name in run.alerts()) != mended, run.alerts()

    try:
        asyncio.run(story())
    finally:
        device.end()
