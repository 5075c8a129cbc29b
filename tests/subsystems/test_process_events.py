"""Programs that are gone at once: what the process connector and fanotify tell of them. Needs root."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mender_monitor_py.host import procconnector
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.fanotify import ExecOpens
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.procconnector import ProcConnector
from mender_monitor_py.host.processevents import Execution, Exit, ProcessEvents
from mender_monitor_py.proclist import Opened
from mender_monitor_py.subsystems import process, processexecutions
from mender_monitor_py.subsystems.processexecutions import Executions
from tests.fakes.network import program, running
from tests.fakes.process_checks import SLEEP, about, check, connected, heard_by, lasts, run, without_events
from tests.fakes.watched import elapse
from tests.fakes.watched import looked as watched

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


class Counter:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.named: dict[int, str] = {}
        self.seen: set[int] = set()
        self.ended: dict[int, int] = {}
        self.lost = 0

    def executed(self, executions):
        for execution in executions:
            self.seen.add(execution.pid)
            for group in execution.programs:
                self.named[execution.pid] = group[-1].path

    def exited(self, exits):
        self.ended |= {end.pid: end.status for end in exits}

    def events_lost(self):
        self.lost += 1

    def mounts_changed(self):
        pass


SPAWNER = """
import os, sys
path, count = sys.argv[1], int(sys.argv[2])
pids = []
for _ in range(count):
    pid = os.posix_spawn(path, [path], {})
    os.waitpid(pid, 0)
    pids.append(pid)
print(*pids)
"""


@connected
def test_each_of_a_thousand_programs_of_a_millisecond_is_seen_and_named(tmp_path):
    shutil.copy("/bin/true", tmp_path / "evil")

    async def scenario():
        events, counter = ProcessEvents(), Counter()
        await events.listen(counter)
        spawn = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SPAWNER, tmp_path / "evil", "1000"), stdout=subprocess.PIPE
        )
        out, _ = await spawn.communicate()
        pids = set(map(int, out.split()))
        async with asyncio.timeout(30):
            while not pids <= counter.ended.keys():
                await asyncio.sleep(0.05)
        lost = events.lost
        events.close()
        named = [pid for pid in pids if counter.named.get(pid) == str(tmp_path / "evil")]
        assert len(pids & counter.seen) >= 999 or lost
        assert len(named) >= 999 or lost
        assert not any(counter.ended[pid] for pid in pids)

    asyncio.run(scenario())


@connected
def test_lost_events_are_noticed(tmp_path):
    """A reader that does not get its turn while many processes start: the kernel's numbers tell."""

    async def scenario():
        connector = await ProcConnector.open()
        try:
            connector._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            subprocess.run(
                [sys.executable, "-c", SPAWNER, "/bin/true", "100"], capture_output=True, check=True
            )
            async with asyncio.timeout(30):
                while not (connector.overruns and connector.lost):
                    connector.read()
                    # Each CPU counts its own: the gap shows with the next event there.
                    for cpu in os.sched_getaffinity(0):
                        subprocess.run(["taskset", "-c", str(cpu), "true"], check=True)
        finally:
            connector.close()

    asyncio.run(scenario())


@connected
def test_lost_events_bring_a_look_and_are_counted(paths, tmp_path, monkeypatch):
    """
    The check does not get its turn while many processes start: what was missed is found where it still runs.
    """
    evil = program(tmp_path, "evil")
    monkeypatch.setattr(procconnector, "BUFFER", 4096)
    monkeypatch.setattr(ExecOpens, "read", lambda self: [])

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            flood = [sys.executable, "-c", SPAWNER, "/bin/true", "50"]
            subprocess.run(flood, capture_output=True, check=True)
            with running(evil, SLEEP):
                subprocess.run(flood, capture_output=True, check=True)
                for cpu in os.sched_getaffinity(0):  # each counts its own
                    await run("taskset", "-c", str(cpu), "true")
                await report.until(lambda: about(report, evil))
                await report.until(lambda: "events were lost" in report.notes["lost"])

    asyncio.run(scenario())


def test_processes_that_end_while_they_are_looked_at(paths, tmp_path):
    """
    Each moment of a look, and of a description, is one in which some of them end.
    """
    end = threading.Event()

    def trouble() -> None:
        while not end.is_set():
            subprocess.run(
                [sys.executable, "-c", SPAWNER, "/bin/true", "20"], capture_output=True, check=True
            )

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/none", PROCESS_MAX_ALERTS="100000")
        async with watched(paths, one) as report:
            await report.until(lambda: about(report, "/usr/bin/true"))
            host = Host(paths, Clock())
            for _ in range(30):
                await one.survey(host)
                for pid in host.procfs.pids():
                    who = host.procfs.describe(pid)
                    assert who is None or who.user
            await host.aclose()

    threads = [threading.Thread(target=trouble) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        asyncio.run(scenario())
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_who_stays_is_no_event_because_it_is_seen_starting_too(paths, tmp_path, monkeypatch):
    """
    On a busy machine a look comes before the event: that it stays, and who it is, is known and remains so.
    """
    without_events(monkeypatch)
    monkeypatch.setattr(ProcessEvents, "_mounts_changed", lambda self: None)  # each is time for a look
    listeners = heard_by(monkeypatch)
    evil, ours = program(tmp_path, "evil"), check(tmp_path, PROCESS_INTERVAL="1")

    async def scenario():
        async with watched(paths, ours) as report:

            def newest():
                return report.states[evil].last if evil in report.states else None

            with running(evil, SLEEP) as found:
                await report.until(lambda: newest() and not newest().event)
                first = newest()
                assert f"pid: {found.pid}\nexecutable: {evil}\n" in first.details.description
                status = Path(evil).stat()
                opened = Opened(found.pid, evil, b"\x7fELF", status.st_dev, status.st_ino)
                listeners[0].executed([Execution(found.pid, 1, ((opened,),))])
                await elapse(2 * processexecutions.OPEN_S)
                assert newest() is first

    asyncio.run(scenario())


@connected
def test_scripts_are_named_by_their_path(paths, tmp_path):
    script = tmp_path / "x.sh"
    script.write_text("#!/bin/sh\nread line\n")
    script.chmod(0o755)

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            await run(script, stdin=subprocess.DEVNULL)
            await report.until(lambda: about(report, script))
            assert about(report, script)[0].subject.name == f"/usr/bin/dash {script}"
            # It does not execute its script, and runs until that was looked at.
            with subprocess.Popen(["/bin/bash", "x.sh"], cwd=tmp_path, stdin=subprocess.PIPE):
                await report.until(lambda: about(report, f"/usr/bin/bash {script}"))

    asyncio.run(scenario())


def timers(monkeypatch) -> list[Callable[[], object]]:
    """What executions have to look at again in a moment: the test says when that is over."""
    due: list[Callable[[], object]] = []
    monkeypatch.setattr(Executions, "_in", lambda self, seconds, call: due.append(call))
    return due


@pytest.mark.parametrize(("connector", "was"), [(True, "before"), (False, "before"), (True, "python3")])
def test_a_script_whose_interpreter_is_told_before_it_runs(paths, tmp_path, monkeypatch, connector, was):
    """
    Its command line is not there yet, or is that of the script from which the same interpreter goes on to
    another; on a busy machine that is so for a while.
    """
    without_events(monkeypatch)
    monkeypatch.setattr(process, "POLLED_S", 600.0)
    monkeypatch.setattr(ProcessEvents, "sees_exits", connector)
    monkeypatch.setattr(ProcessEvents, "_mounts_changed", lambda self: None)  # each is time for a look
    listeners, due = heard_by(monkeypatch), timers(monkeypatch)
    python = program(tmp_path, "python3")
    before = program(tmp_path, was) if was != "python3" else python
    script, good = tmp_path / "evil.py", tmp_path / "good.py"
    script.write_text(SLEEP)
    allowed = f"{tmp_path}/before, {python} {tmp_path}/good.py"
    ours = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW=allowed, PROCESS_MAX_ALERTS="100000")
    good.write_text(
        f"import os\nprint(flush=True)\ninput()\nos.execv({python!r}, [{python!r}, '-IS', {str(script)!r}])"
    )

    async def scenario():
        async with watched(paths, ours) as report:
            with subprocess.Popen(
                [before, "-IS", good], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as found:
                assert found.stdin is not None and found.stdout is not None
                try:
                    found.stdout.readline()
                    status = Path(python).stat()
                    opened = Opened(found.pid, python, b"\x7fELF", status.st_dev, status.st_ino)
                    listeners[0].executed([Execution(found.pid, 1, ((opened,),), ahead=connector)])
                    if not connector:
                        due.pop()()
                    found.stdin.write(b"\n")
                    found.stdin.flush()
                    await asyncio.to_thread(found.stdout.readline)
                    if connector:
                        listeners[0].executed([Execution(found.pid, 0, ())])
                    else:
                        due.pop()()
                    await report.until(lambda: about(report, script))
                finally:
                    found.kill()

    asyncio.run(scenario())


BEFORE = """
import os, sys
print(flush=True)
os.read(0, 1)
os.execv(sys.argv[1], [sys.argv[1], "-ISc", sys.argv[2]])
"""


@pytest.mark.parametrize("connector", [True, False])
@pytest.mark.parametrize("fate", ["runs", "ended", "lost", "nothing is told"])
def test_a_program_that_is_told_before_it_runs_is_told_as_who_it_is(
    paths, tmp_path, monkeypatch, connector, fate
):
    """On a busy machine the process is what it was before, with another command line, for a while."""
    without_events(monkeypatch)
    monkeypatch.setattr(process, "POLLED_S", 600.0)
    monkeypatch.setattr(ProcessEvents, "sees_exits", connector)
    monkeypatch.setattr(ProcessEvents, "_mounts_changed", lambda self: None)  # each is time for a look
    listeners, due = heard_by(monkeypatch), timers(monkeypatch)
    evil = program(tmp_path, "evil")

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            command = [sys.executable, "-c", BEFORE, evil, SLEEP]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as found:
                assert found.stdin is not None and found.stdout is not None
                try:
                    found.stdout.readline()
                    status = Path(evil).stat()
                    opened = Opened(found.pid, evil, b"\x7fELF", status.st_dev, status.st_ino)
                    listeners[0].executed([Execution(found.pid, 1, ((opened,),), ahead=connector)])
                    if not connector:
                        due.pop()()
                    assert not about(report, evil)
                    if fate == "runs":
                        found.stdin.write(b"\n")
                        found.stdin.flush()
                        await asyncio.to_thread(found.stdout.readline)
                    elif fate == "ended":
                        found.kill()
                        found.wait()
                    if not connector:
                        due.pop()()
                    elif fate == "runs":
                        listeners[0].executed([Execution(found.pid, 0, ())])
                    elif fate == "ended":
                        listeners[0].exited([Exit(found.pid, 9)])
                    elif fate == "lost":
                        listeners[0].events_lost()
                    else:
                        due.pop()()
                    await report.until(lambda: about(report, evil))
                    text = about(report, evil)[0].details.description
                    assert fate != "runs" or f"pid: {found.pid}\nexecutable: {evil}\n" in text
                    assert fate != "ended" or "it has ended" in text
                finally:
                    found.kill()

    asyncio.run(scenario())


@connected
def test_who_failed_to_execute_something_before_is_told_at_once(paths, tmp_path):
    """The kernel tells of the attempt, as of one that is still to come."""
    evil, broken = program(tmp_path, "evil"), tmp_path / "broken"
    broken.write_bytes(b"\x7fELF and nothing more")
    broken.chmod(0o755)
    code = f"import os\ntry: os.execv({str(broken)!r}, ['x'])\nexcept OSError: pass\n"
    code += f"os.execv({evil!r}, [{evil!r}, '-ISc', {SLEEP!r}])"

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            with running(sys.executable, code) as found:
                await report.until(lambda: about(report, evil))
                text = about(report, evil)[0].details.description
                assert f"pid: {found.pid}\nexecutable: {evil}\n" in text

    asyncio.run(scenario())


# Other tests of this machine run such programs, too.
INNOCENT = f"innocent-{os.getpid()}"
FILELESS = f"""
import os, sys
fd = os.memfd_create("{INNOCENT}", os.MFD_CLOEXEC)
os.write(fd, open("/bin/cat", "rb").read())
print(flush=True)
os.read(0, 1)
os.execve(fd, ["cat"], {{}})
"""


@pytest.mark.parametrize(
    ("connector", "fate"), [(True, "runs"), (True, "ended"), (True, "executed more"), (False, "runs")]
)
def test_a_program_without_a_file_whose_loader_is_told_before_it_runs(
    paths, tmp_path, monkeypatch, connector, fate
):
    """
    On a busy machine the process is then what it was before; the event that says that it runs names no file.
    """
    without_events(monkeypatch)
    monkeypatch.setattr(process, "POLLED_S", 600.0)
    monkeypatch.setattr(ProcessEvents, "sees_exits", connector)
    monkeypatch.setattr(ProcessEvents, "_mounts_changed", lambda self: None)  # each is time for a look
    listeners, due = heard_by(monkeypatch), timers(monkeypatch)
    found_loader = re.search(r"/\S*/ld-linux\S*", Path("/proc/self/maps").read_text())
    assert found_loader is not None
    loader = found_loader[0]
    ours = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *, elsewhere:/**")

    def opened(pid: int, path: str) -> Opened:
        return Opened(pid, path, b"\x7fELF", Path(path).stat().st_dev, Path(path).stat().st_ino)

    async def scenario():
        async with watched(paths, ours) as report:
            with subprocess.Popen(
                [sys.executable, "-c", FILELESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as found:
                assert found.stdin is not None and found.stdout is not None
                try:
                    found.stdout.readline()
                    ahead = Execution(found.pid, 1, ((opened(found.pid, loader),),), ahead=connector)
                    listeners[0].executed([ahead])
                    if not connector:
                        due.pop()()
                    found.stdin.write(b"\nit runs\n")
                    found.stdin.flush()
                    await asyncio.to_thread(found.stdout.readline)
                    if fate == "ended":
                        found.kill()
                        found.wait()
                    if fate == "executed more":
                        true = opened(found.pid, "/usr/bin/true")
                        listeners[0].executed([Execution(found.pid, 1, ((true,),))])
                    elif connector:
                        listeners[0].executed([Execution(found.pid, 0, ())])
                    else:
                        due.pop()()
                    wanted = f"memfd:{INNOCENT}" if fate == "runs" else "could not be named"
                    await report.until(lambda: [a for a in report.alerts if wanted in a.name])
                finally:
                    found.kill()

    asyncio.run(scenario())


@connected
def test_a_script_that_leaves_the_folder_it_was_named_from(paths, tmp_path):
    """A later look does not take it for a script of the folder that it is in by then."""
    evil = program(tmp_path, "python3")
    (tmp_path / "x.py").write_text("import os, time\ninput()\nos.chdir('/')\ntime.sleep(600)")
    label = f"{evil} {tmp_path}/x.py"

    async def scenario():
        async with watched(paths, one) as report:
            command = [evil, "-I", "-S", "x.py"]
            with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE) as found:
                try:
                    assert found.stdin is not None
                    await report.until(lambda: about(report, label))
                    found.stdin.write(b"\n")
                    found.stdin.close()
                    await report.until(lambda: Path(f"/proc/{found.pid}/cwd").readlink() == Path("/"))
                    await report.until(lambda: lasts(report, label))
                    assert not about(report, f"{evil} /x.py")
                finally:
                    found.kill()

    one = check(tmp_path)
    one.interval = 1
    asyncio.run(scenario())


BOMB = """
import os
for _ in range(500):
    if os.fork() == 0:
        os._exit(0)
for _ in range(500):
    os.wait()
"""


def test_a_bomb_of_500_children_is_one_finding(paths, tmp_path):
    evil = program(tmp_path, "evil")

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            await run(evil, "-I", "-S", "-c", BOMB)
            await run("/bin/true")
            await report.until(lambda: about(report, evil))
            await elapse(0.2)
            assert len(about(report, evil)) == 1

    asyncio.run(scenario())


@connected
def test_many_different_programs_at_once_share_a_summary(paths, tmp_path):
    for number in range(30):
        shutil.copy("/bin/true", tmp_path / f"evil{number}")

    async def scenario():
        async with watched(paths, check(tmp_path, PROCESS_MAX_ALERTS="20")) as report:
            for number in range(30):
                await run(tmp_path / f"evil{number}")
            await report.until(lambda: "Many unexpected processes" in report.open)
            # There is another summary where they take longer than one waits for.
            assert len([alert for alert in report.alerts if alert.subject.type != "summary"]) == 20
            assert "more findings at once" in report.last("Many unexpected processes").details.description

    asyncio.run(scenario())


@pytest.mark.parametrize("fanotify", [True, False])
def test_without_the_connector(paths, tmp_path, monkeypatch, fanotify):
    """In a container: fanotify alone sees every program; without it a look at /proc each two seconds does."""

    without_events(monkeypatch, fanotify=fanotify)
    evil = program(tmp_path, "evil")
    monkeypatch.setattr(process, "POLLED_S", 0.5)

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            await report.until(lambda: report.notes.get("events"))
            assert "no process connector here" in report.notes["events"]
            with running(evil, SLEEP):
                await report.until(lambda: about(report, evil))
            if fanotify:
                shutil.copy("/bin/true", tmp_path / "short")
                await run(tmp_path / "short")
                await report.until(lambda: about(report, tmp_path / "short"))

    asyncio.run(scenario())
