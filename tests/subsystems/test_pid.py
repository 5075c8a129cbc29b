"""A process is killed, replaced, daemonized and impersonated for real."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from mender_monitor_py.errors import DefinitionError, UnknownError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.fanotify import ExecOpens
from mender_monitor_py.host.mainprocess import by_executable
from mender_monitor_py.host.procconnector import ProcConnector
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.pidwatch import Main
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import pid
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.pid import PidCheck
from tests.fakes.executed import executed
from tests.fakes.fake_systemd import FakeSystemd
from tests.fakes.judging import JudgingReport
from tests.fakes.process_checks import connected
from tests.fakes.watched import looked as watched

RESTARTED = "Process app restarted"
NOT_RUNNING = "Process app is not running"


@pytest.fixture
def app(tmp_path):
    path = tmp_path / "app"
    shutil.copy("/bin/sleep", path)
    return str(path)


def check(**values: str) -> PidCheck:
    return PidCheck(
        Definition(CheckId("pid", "app"), {"PID_GRACE": "0", "PID_INTERVAL": "1", **values}), Settings()
    )


@contextmanager
def started(path: str, *arguments: str):
    process = executed([path, "600", *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def without_events(monkeypatch):
    """As in a container that is permitted nothing."""

    async def refused():
        raise UnknownError("no process connector here")

    def denied(self):
        raise UnknownError("not permitted")

    monkeypatch.setattr(ProcConnector, "open", refused)
    monkeypatch.setattr(ExecOpens, "__init__", denied)


@pytest.fixture(params=["events", "no events"])
def sources(request, monkeypatch):
    if request.param == "no events":
        without_events(monkeypatch)
    return request.param


def test_a_restart_within_milliseconds(paths, app, sources):
    async def scenario():
        with started(app) as first:
            # On a busy machine it is away for longer.
            async with watched(paths, check(PID_EXE=app, PID_GRACE="600")) as report:
                assert report.alerts == []
                first.terminate()
                first.wait()
                with started(app) as second:
                    await report.until(lambda: RESTARTED in report.open)
                    text = report.last(RESTARTED).details.description
                    assert f"pid {first.pid} became pid {second.pid}\n" in text
                    assert f"executable: {app}\n" in text
                    if sources == "events" and os.geteuid() == 0:
                        assert "it was ended by SIGTERM" in text
                    await asyncio.sleep(0.2)
                    assert [alert.level for alert in report.alerts] == [CRITICAL]

    asyncio.run(scenario())


@connected
@pytest.mark.skipif(os.geteuid() != 0, reason="the events need root")
@pytest.mark.parametrize(("grace", "name"), [("600", RESTARTED), ("0", NOT_RUNNING)])
def test_how_it_ended_is_told_though_the_kernel_is_late_with_it(paths, app, monkeypatch, grace, name):
    """That it has ended is told before: on a busy machine long before."""
    exited = pid._Watch.exited
    monkeypatch.setattr(
        pid._Watch,
        "exited",
        lambda self, exits: asyncio.get_running_loop().call_later(0.3, exited, self, exits),
    )

    async def scenario():
        with started(app) as first:
            async with watched(paths, check(PID_EXE=app, PID_GRACE=grace)) as report:
                first.terminate()
                first.wait()
                with started(app) if name == RESTARTED else nullcontext():
                    await report.until(lambda: name in report.open)
                    assert "it was ended by SIGTERM" in report.last(name).details.description

    asyncio.run(scenario())


def test_a_process_that_stays_away_and_comes_back(paths, app, sources):
    async def scenario():
        async with watched(paths, check(PID_EXE=app)) as report:
            with started(app) as first:
                await report.until(lambda: not report.open)
                first.kill()
                first.wait()
                await report.until(lambda: report.open == [NOT_RUNNING])
            with started(app):
                await report.until(lambda: report.open == [RESTARTED])
                levels = [alert.level for alert in report.alerts if alert.name == NOT_RUNNING]
                assert levels[-2:] == [CRITICAL, OK]

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="the events need root")
def test_what_is_away_for_long_is_not_looked_for_at_each_program(paths, app, monkeypatch):
    """A busy device starts many a second, and the service that is missing may be so for days."""
    monkeypatch.setattr(pid, "AWAY_S", 0.0)
    monkeypatch.setattr(pid, "AWAY_SETTLE_S", 3.0)
    looks, began = 0, time.monotonic()

    def counted(procfs, executable):
        nonlocal looks
        looks += 1
        return by_executable(procfs, executable)

    monkeypatch.setattr(pid, "by_executable", counted)

    async def scenario():
        async with watched(paths, check(PID_EXE=app, PID_INTERVAL="600")) as report:
            await report.until(lambda: report.open == [NOT_RUNNING])
            for _ in range(50):
                await asyncio.to_thread(subprocess.run, ["/bin/true"], check=True)
            assert looks <= 2 + (time.monotonic() - began) / 3.0
            with started(app):
                await report.until(lambda: not report.open)

    asyncio.run(scenario())


def test_it_may_be_away_for_the_grace_and_for_ever_when_it_is_not_required(paths, app):
    async def scenario():
        async with (
            watched(paths, check(PID_EXE=app, PID_GRACE="600")) as patient,
            watched(paths, check(PID_EXE=app, PID_REQUIRE="no")) as free,
        ):
            await asyncio.sleep(0.3)
            assert patient.alerts == free.alerts == []

    asyncio.run(scenario())


REUSE = """
import ctypes, os, struct, sys
path, pid = sys.argv[1], int(sys.argv[2])
wanted = ctypes.c_int(pid)
arguments = struct.pack("=11Q", 0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
buffer = ctypes.create_string_buffer(arguments)
child = ctypes.CDLL(None, use_errno=True).syscall(435, buffer, len(arguments))
if child == 0:
    os.execv(path, [path, "600"])
print(child, os.strerror(ctypes.get_errno()) if child < 0 else "", flush=True)
if child > 0:
    os.waitpid(child, 0)
"""


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_number_that_is_used_again_does_not_hide_a_restart(paths, app):
    async def scenario():
        with started(app) as first:
            async with watched(paths, check(PID_EXE=app)) as report:
                first.kill()
                first.wait()
                command = [sys.executable, "-c", REUSE, app, str(first.pid)]
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as helper:
                    assert helper.stdout is not None
                    line = helper.stdout.readline()
                    assert line.split()[0] == str(first.pid), line
                    try:
                        await report.until(lambda: RESTARTED in report.open)
                        text = report.last(RESTARTED).details.description
                        assert f"pid {first.pid} became pid {first.pid}\n" in text
                    finally:
                        os.kill(first.pid, signal.SIGKILL)

    asyncio.run(scenario())


DAEMON = """
import os, sys, time
# Who was started first, or in between, ends when our end of its stdin is closed.
for _ in range(int(sys.argv[1])):
    if os.fork():
        os.read(0, 1)
        os._exit(0)
    os.setsid()
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("forks", ["1", "2"])
def test_a_daemon_that_goes_into_the_background_is_no_restart(paths, tmp_path, forks):
    """The process that was started first ends; the one that stays had been there."""
    path = tmp_path / "app"
    shutil.copy(Path(sys.executable).resolve(), path)

    async def scenario():
        async with watched(paths, check(PID_EXE=str(path), PID_GRACE="600")) as report:
            command = [path, "-I", "-S", "-c", DAEMON, forks]
            pipe = subprocess.PIPE
            first = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            assert first.stdin is not None and first.stdout is not None
            stays = int(first.stdout.readline())
            try:
                await report.until(lambda: f'"pid": {first.pid}' in report.memory)
                first.stdin.close()
                await asyncio.to_thread(first.wait)
                await report.until(lambda: f'"pid": {stays}' in report.memory)
                assert report.alerts == []
            finally:
                os.kill(stays, signal.SIGKILL)
                first.stdin.close()
                first.wait()
                first.stdout.close()

    asyncio.run(scenario())


def test_a_pid_file(paths, app, tmp_path):
    """Followed when it names another process; not believed when it is stale, or lies."""
    file = tmp_path / "app.pid"

    async def scenario():
        async with watched(paths, check(PID_FILE=str(file))) as report:
            await report.until(lambda: report.open == [NOT_RUNNING])
            assert "cannot be read" in report.alerts[0].details.description
            with started(app) as first, started(app) as second:
                file.write_text(f"{first.pid}\n")
                await report.until(lambda: report.open == [])
                file.write_text(f"{second.pid}\n")
                await report.until(lambda: report.open == [RESTARTED])
                second.kill()
                second.wait()
                await report.until(lambda: NOT_RUNNING in report.open)
                assert "stale" in report.last(NOT_RUNNING).details.description
                old = time.time() - 600
                file.write_text(f"{first.pid}\n")
                await report.until(lambda: NOT_RUNNING not in report.open)
                os.utime(file, (old, old))  # it was written long before that process started
                file.rename(tmp_path / "x")
                (tmp_path / "x").rename(file)
                await report.until(lambda: NOT_RUNNING in report.open)
                assert "the number is used again" in report.last(NOT_RUNNING).details.description

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["nonsense", "", "2"])
def test_a_pid_file_that_names_no_process_of_a_program(paths, tmp_path, text):
    file = tmp_path / "app.pid"
    file.write_text(text)
    if text == "2" and Path("/proc/2/comm").exists() and "kthreadd" not in Path("/proc/2/comm").read_text():
        pytest.skip("no kernel threads here")

    async def scenario():
        async with watched(paths, check(PID_FILE=str(file))) as report:
            await report.until(lambda: report.open == [NOT_RUNNING])

    asyncio.run(scenario())


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_what_is_no_file_is_no_pid_file_and_is_not_waited_for(paths, tmp_path, make):
    """Whoever owns the folder can put it there; no look leaves a descriptor behind."""
    make(tmp_path / "app.pid")

    async def scenario():
        async with watched(paths, check(PID_FILE=str(tmp_path / "app.pid"))) as report:
            await report.until(lambda: report.open == [NOT_RUNNING])
            assert "cannot be read: not a regular file" in report.alerts[0].details.description

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other users need root")
@pytest.mark.parametrize(
    ("owner", "mode", "lie"),
    [(65534, 0o644, "and process "), (0, 0o666, "everybody can write it")],
    ids=["of another user", "of anybody"],
)
def test_a_pid_file_that_a_stranger_wrote(paths, app, tmp_path, owner, mode, lie):
    file = tmp_path / "app.pid"

    async def scenario():
        with started(app) as process:
            file.write_text(str(process.pid))
            os.chown(file, owner, owner)
            file.chmod(mode)
            async with watched(paths, check(PID_FILE=str(file))) as report:
                await report.until(lambda: report.open == [NOT_RUNNING])
                assert lie in report.alerts[0].details.description

    asyncio.run(scenario())


def test_a_pid_file_that_names_a_thread(paths, tmp_path):
    """It has a number of its own, under which /proc shows something."""
    file, end = tmp_path / "app.pid", threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    file.write_text(str(thread.native_id))

    async def scenario():
        async with watched(paths, check(PID_FILE=str(file))) as report:
            await report.until(lambda: report.open == [NOT_RUNNING])
            assert f"is a thread of process {os.getpid()}" in report.alerts[0].details.description

    try:
        asyncio.run(scenario())
    finally:
        end.set()
        thread.join()


def test_by_command_line(paths, app):
    async def scenario():
        with started(app, "7777") as first:
            async with watched(paths, check(PID_CMDLINE=f"^{re.escape(app)} 600 7{{4}}$")) as report:
                first.kill()
                first.wait()
                with started(app, "7777"):
                    await report.until(lambda: RESTARTED in report.open)

    asyncio.run(scenario())


@pytest.mark.parametrize(("boot", "expected"), [("", [RESTARTED]), ("another boot", [])])
def test_a_restart_while_the_monitor_was_away_and_after_a_reboot(paths, app, boot, expected):
    before = Main(boot or Clock().now().boot_id, 1, 1, 1.0).to_text()

    async def scenario():
        with started(app) as process:
            async with watched(paths, check(PID_EXE=app), JudgingReport(before)) as report:
                await report.until(lambda: f'"pid": {process.pid}' in report.memory)
                assert report.open == expected

    asyncio.run(scenario())


def test_the_main_process_of_a_service(paths, app, private_bus):
    """systemd says which process it is; a restart within milliseconds is told."""

    async def scenario():
        async with FakeSystemd(private_bus.address) as systemd:
            with started(app) as first:
                unit = systemd.add("app.service", facts={"MainPID": ("u", first.pid)})
                async with watched(paths, check(PID_SERVICE="app")) as report:
                    await report.until(lambda: report.memory)
                    first.kill()
                    first.wait()
                    with started(app) as second:
                        unit.facts["MainPID"] = ("u", second.pid)
                        await systemd.change("app.service", "active", "running")
                        await report.until(lambda: RESTARTED in report.open)
                        unit.facts["MainPID"] = ("u", 0)
                        second.kill()
                        second.wait()
                        await systemd.change("app.service", "failed", "failed")
                        await report.until(lambda: NOT_RUNNING in report.open)
                        assert "app.service is failed" in report.last(NOT_RUNNING).details.description

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"PID_EXE": "/x", "PID_FILE": "/y"},
        {"PID_EXE": "x"},
        {"PID_CMDLINE": "("},
        {"PID_SERVICE": "x" * 300},
        {"PID_EXE": "/x", "PID_REQUIRE": "maybe"},
    ],
)
def test_what_cannot_be_is_refused(values):
    with pytest.raises(DefinitionError):
        check(**values)
