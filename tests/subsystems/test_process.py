"""
Programs that are not expected, really run on this machine: root, the process connector and fanotify.

Other programs run here too, so that only those in the test's own folder are looked at.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py import scan
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import hidden, procconnector, processevents
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.fanotify import ExecOpens
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.procconnector import ProcConnector
from mender_monitor_py.host.processevents import Execution, ProcessEvents
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.replaced import Replaced
from mender_monitor_py.host.scanner import Scanner
from mender_monitor_py.model import CRITICAL, OK, Alert, CheckId
from mender_monitor_py.proclist import Opened
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import expected, process
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.process import ProcessCheck
from tests.fakes.judging import JudgingReport
from tests.fakes.network import program, running
from tests.fakes.watched import looked as watched
from tests.fakes.watched import runs_on

CLONE_NEWNS = 0x20000
SLEEP = "import time; print('ready', flush=True); time.sleep(600)"


def _has_connector() -> bool:
    async def attempt() -> None:
        (await ProcConnector.open()).close()

    try:
        asyncio.run(attempt())
    except UnknownError:
        return False
    return True


pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
connected = pytest.mark.skipif(os.geteuid() == 0 and not _has_connector(), reason="no process connector here")


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


def check(folder: Path, **values: str) -> ProcessCheck:
    """What is in *folder* must not run; all else may."""
    given = {"PROCESS_ALLOW": f"{folder}/**", "PROCESS_MODE": "deny", "PROCESS_MAX_ALERTS": "1000", **values}
    made = ProcessCheck(Definition(CheckId("process", "all"), given), Settings())
    made.interval = float(values.get("PROCESS_INTERVAL", "600"))
    return made


def _without_events(monkeypatch: pytest.MonkeyPatch, *, fanotify: bool = False) -> None:
    async def refused():
        raise UnknownError("no process connector here")

    def denied(self):
        raise UnknownError("not permitted")

    monkeypatch.setattr(ProcConnector, "open", refused)
    if not fanotify:
        monkeypatch.setattr(ExecOpens, "__init__", denied)


def about(report: JudgingReport, text: str | Path) -> list[Alert]:
    return [alert for alert in report.alerts if str(text) in alert.subject.name]


def lasts(report: JudgingReport, label: str) -> bool:
    """Whether *label* is no event any more: it ends when the process does."""
    last = report.states[label].last
    return last is not None and not last.event


async def run(*command: str | Path, **options: Any) -> None:
    words = [str(part) for part in command]
    await asyncio.to_thread(lambda: subprocess.run(words, check=False, **options))


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


def test_a_program_that_is_not_expected(paths, tmp_path):
    """It is told within a moment, with who did it, once; its repetition renews, its list entry clears."""
    evil = program(tmp_path, "evil")

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            with running(evil, SLEEP, "--password=s3cret") as found:
                await report.until(lambda: about(report, evil))
                (alert,) = about(report, evil)
                assert (alert.level, alert.name) == (CRITICAL, f"Unexpected process {evil}")
                text = alert.details.description
                assert f"pid: {found.pid}\nexecutable: {evil}\n" in text
                assert "--password=***" in text
                assert "s3cret" not in text
            with running(evil, SLEEP):
                await asyncio.sleep(0.1)
            assert len(about(report, evil)) == 1
            assert report.states[evil].repeats >= 1

    asyncio.run(scenario())


def test_who_stays_is_no_event_because_it_is_seen_starting_too(paths, tmp_path, monkeypatch):
    """
    On a busy machine a look comes before the event: that it stays, and who it is, is known and remains so.
    """
    _without_events(monkeypatch)
    monkeypatch.setattr(ProcessEvents, "_mounts_changed", lambda self: None)  # each is time for a look
    listeners = _listeners(monkeypatch)
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
                await asyncio.sleep(2 * process.OPEN_S)
                assert newest() is first

    asyncio.run(scenario())


def _listeners(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Who will listen to the events of processes."""
    listeners: list[Any] = []
    listen = ProcessEvents.listen

    async def heard(self, listener):
        listeners.append(listener)
        return await listen(self, listener)

    monkeypatch.setattr(ProcessEvents, "listen", heard)
    return listeners


def test_the_list_and_its_conditions(paths, tmp_path):
    good, evil = program(tmp_path, "good"), program(tmp_path, "evil")
    digest = hashlib.sha256(Path(good).read_bytes()).hexdigest()

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="", PROCESS_MAX_ALERTS="100000")
        path = paths.baseline_d / "process_all.list"
        path.parent.mkdir(parents=True)
        path.write_text(f"{good} * user:root sha256:{digest} parent:/**\n")
        async with watched(paths, one) as report:
            with running(good, SLEEP), running(evil, SLEEP):
                await report.until(lambda: about(report, evil))
                await asyncio.sleep(0.5)
                assert not about(report, good)
                path.write_text(f"{good} user:nobody\n{evil}\n")
                await report.until(lambda: [alert.level for alert in about(report, evil)] == [CRITICAL, OK])
                await report.until(lambda: [alert.level for alert in about(report, good)] == [CRITICAL])

    asyncio.run(scenario())


@connected
def test_scripts_are_named_by_their_path(paths, tmp_path):
    script = tmp_path / "x.sh"
    script.write_text("#!/bin/sh\nsleep 0.5\n")
    script.chmod(0o755)

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            await run(script)
            await report.until(lambda: about(report, script))
            assert about(report, script)[0].subject.name == f"/usr/bin/dash {script}"
            await run("/bin/bash", "x.sh", cwd=tmp_path)
            await report.until(lambda: about(report, f"/usr/bin/bash {script}"))

    asyncio.run(scenario())


@pytest.mark.parametrize(("connector", "was"), [(True, "before"), (False, "before"), (True, "python3")])
def test_a_script_whose_interpreter_is_told_before_it_runs(paths, tmp_path, monkeypatch, connector, was):
    """
    Its command line is not there yet, or is that of the script from which the same interpreter goes on to
    another; on a busy machine that is so for a while.
    """
    _without_events(monkeypatch)
    monkeypatch.setattr(process, "POLLED_S", 600.0)
    monkeypatch.setattr(ProcessEvents, "sees_exits", connector)
    monkeypatch.setattr(ProcessEvents, "_mounts_changed", lambda self: None)  # each is time for a look
    listeners = _listeners(monkeypatch)
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
                    await asyncio.sleep(2 * process.OPEN_S)
                    found.stdin.write(b"\n")
                    found.stdin.flush()
                    await asyncio.to_thread(found.stdout.readline)
                    if connector:
                        listeners[0].executed([Execution(found.pid, 0, ())])
                    await report.until(lambda: about(report, script))
                finally:
                    found.kill()

    asyncio.run(scenario())


@pytest.mark.parametrize("events", [pytest.param(True, marks=connected), False])
def test_links_in_a_list_are_followed(paths, tmp_path, monkeypatch, events):
    """
    The kernel names a program without links. Where they lead to may change: by an upgrade, as an example.
    """
    if not events:
        _without_events(monkeypatch)
    one, other = program(tmp_path, "python1"), program(tmp_path, "python2")
    script, link = tmp_path / "app1.py", tmp_path / "app"
    script.write_text(f"#!{one} -IS\n{SLEEP}")
    script.chmod(0o755)
    link.symlink_to("app1.py")
    (tmp_path / "python").symlink_to("python1")
    monkeypatch.setattr(expected, "_LEADS_S", 0.0)
    monkeypatch.setattr(process, "POLLED_S", 0.2)
    allowed = f"{tmp_path}/python {link}"
    ours = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW=allowed, PROCESS_MAX_ALERTS="100000")
    ours.interval = 0.2

    async def scenario():
        async with watched(paths, ours) as report:

            async def found_beside(command: list[str | Path], finding: str) -> None:
                """What is looked for after *command* began is found after it."""
                with subprocess.Popen(command, stdout=subprocess.DEVNULL) as app, running(finding, SLEEP):
                    try:
                        await report.until(lambda: f"{finding} -c" in report.states)
                    finally:
                        app.kill()

            await found_beside([link], other)
            await found_beside([one, "-IS", link], program(tmp_path, "python3"))
            assert not about(report, script)
            assert not about(report, link)
            (tmp_path / "python").unlink()
            (tmp_path / "python").symlink_to("python2")
            await found_beside([other, "-IS", script], one)
            assert not about(report, script)

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


def test_code_on_the_command_line_is_no_plain_interpreter(paths, tmp_path):
    """An entry for an interpreter alone does not stand for every code that it can be given."""
    evil = program(tmp_path, "python3")

    async def scenario():
        async with watched(paths, check(tmp_path, PROCESS_ALLOW=f"{evil} -c")) as report:
            with running(evil, SLEEP):
                await report.until(lambda: about(report, evil))
                assert about(report, evil)[0].subject.name == f"{evil} -c"

    asyncio.run(scenario())


MEMFD = """
import os, sys
fd = os.memfd_create("innocent", os.MFD_CLOEXEC)
os.write(fd, open(sys.argv[1], "rb").read())
os.execve(fd, ["kworker", "600"], {})
"""


def test_a_program_without_a_file(paths, tmp_path):
    """memfd_create and execveat: a finding whatever the list says."""

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *, elsewhere:/**")
        async with watched(paths, one) as report:
            command = [sys.executable, "-c", MEMFD, "/bin/sleep"]
            with subprocess.Popen(command) as found:
                try:
                    await report.until(lambda: about(report, "memfd:innocent"))
                    (alert,) = about(report, "memfd:innocent")
                    assert "it runs from memory" in alert.details.description
                    assert f"pid: {found.pid}\n" in alert.details.description
                finally:
                    found.kill()

    asyncio.run(scenario())


@connected
def test_a_program_without_a_file_that_is_gone_at_once(paths, tmp_path):
    """There is a finding even when /proc was too late to name it, and a glob covers the loader."""
    one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *, elsewhere:/**")

    async def scenario():
        async with watched(paths, one, procfs=Late()) as report:
            await run(sys.executable, "-c", MEMFD, "/bin/true")
            await report.until(lambda: "Processes that could not be named" in report.open)

    class Late(Procfs):
        """Sees no process but those that were there before."""

        def __init__(self):
            super().__init__()
            self._old = set(self.pids())

        def executable(self, pid):
            return super().executable(pid) if pid in self._old else None

    asyncio.run(scenario())


def test_a_script_without_a_name(paths, tmp_path):
    """It is run from an open descriptor, and gone from its folder: a finding whatever the list says."""
    (tmp_path / "x.sh").write_text("sleep 600\n")

    async def scenario():
        one = check(
            tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *, elsewhere:/**, elsewhere:/** *"
        )
        async with watched(paths, one) as report:
            script = os.open(tmp_path / "x.sh", os.O_RDONLY)
            (tmp_path / "x.sh").unlink()
            with subprocess.Popen(
                ["/bin/bash", f"/dev/fd/{script}"], pass_fds=[script], start_new_session=True
            ) as found:
                try:
                    await report.until(lambda: about(report, f"/dev/fd/{script}"))
                    text = about(report, f"/dev/fd/{script}")[0].details.description
                    assert "from an open descriptor" in text
                    assert f"pid: {found.pid}\n" in text
                finally:
                    os.killpg(found.pid, signal.SIGKILL)
                    os.close(script)

    asyncio.run(scenario())


@pytest.mark.skipif(not Path("/proc/2/comm").exists(), reason="no kernel threads here")
def test_kernel_threads_count_when_they_are_wanted(paths, tmp_path):
    async def scenario():
        one = check(tmp_path, PROCESS_ALLOW="kernel:kthreadd")
        async with watched(paths, one) as without:
            assert not about(without, "kernel:")
        one = check(tmp_path, PROCESS_ALLOW="kernel:kthreadd", PROCESS_KERNEL_THREADS="yes")
        async with watched(paths, one) as report:
            await report.until(lambda: about(report, "kernel:kthreadd"))

    asyncio.run(scenario())


def test_what_is_replaced_by_an_installation_may_be_restarted_by_it(paths, tmp_path, monkeypatch):
    """
    A look in the middle finds the old program without its file. What still runs afterwards is a finding.
    """
    evil, other = program(tmp_path, "evil"), program(tmp_path, "other")
    one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW=f"{evil}", PROCESS_MAX_ALERTS="100000")
    _without_events(monkeypatch)
    monkeypatch.setattr(process, "POLLED_S", 0.2)
    monkeypatch.setattr(Host, "installing", True)

    async def scenario():
        async with watched(paths, one) as report:
            with running(evil, SLEEP):
                Path(evil).unlink()
                with running(other, SLEEP):
                    await report.until(lambda: other in report.states)  # a look is at all
                assert f"{evil} (deleted)" not in report.states
                monkeypatch.setattr(Host, "installing", False)
                await report.until(lambda: about(report, f"{evil} (deleted)"))

    asyncio.run(scenario())


@pytest.mark.parametrize("conditions", ["", " sha256:{sha256}"])
def test_what_a_deployment_has_replaced_is_noted_until_it_ends(paths, tmp_path, monkeypatch, conditions):
    """
    No alert, though its content is not the listed one any more. The next file that is removed there is one.
    """
    app, other = program(tmp_path, "app"), program(tmp_path, "other")
    listed = app + conditions.format(sha256=hashlib.sha256(b"new").hexdigest())
    one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW=listed, PROCESS_MAX_ALERTS="100000")
    _without_events(monkeypatch)
    monkeypatch.setattr(process, "POLLED_S", 0.2)
    replaced = Replaced(Procfs())

    async def scenario():
        with running(app, SLEEP) as old:
            Path(app).unlink()
            runs_on(replaced, old.pid)
            async with watched(paths, one, replaced=replaced) as report:
                with running(other, SLEEP):
                    await report.until(lambda: other in report.states)
                assert f"has replaced: {app} (pid {old.pid})" in report.notes["replaced"]
                assert not about(report, app)
                program(tmp_path, "app")
                with running(app, SLEEP):
                    Path(app).unlink()
                    await report.until(lambda: about(report, f"{app} (deleted)"))
                old.kill()
                await report.until(lambda: report.notes["replaced"] == "")

    asyncio.run(scenario())


@connected
def test_the_end_of_what_a_deployment_has_replaced_is_seen_by_the_events(paths, tmp_path):
    app = program(tmp_path, "app")
    one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *, elsewhere:/**")
    replaced = Replaced(Procfs())

    async def scenario():
        with running(app, SLEEP) as old:
            async with watched(paths, one, replaced=replaced) as report:
                Path(app).unlink()
                runs_on(replaced, old.pid)
                await report.until(lambda: str(old.pid) in report.notes["replaced"])
                old.kill()
                await report.until(lambda: not report.notes["replaced"])
                assert not about(report, app)

    asyncio.run(scenario())


def test_the_parent_of_a_program_may_be_one_that_a_deployment_has_replaced(paths, tmp_path, monkeypatch):
    """
    A condition on the parent holds still.
    """
    parent, child, other = (program(tmp_path, name) for name in ("parent", "child", "other"))
    code = f"import subprocess; print('ready', flush=True); subprocess.run([{child!r}, '-ISc', {SLEEP!r}])"
    allowed = f"{parent}, {child} parent:{parent}"
    one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW=allowed, PROCESS_MAX_ALERTS="100000")
    _without_events(monkeypatch)
    monkeypatch.setattr(process, "POLLED_S", 0.2)
    replaced = Replaced(Procfs())

    async def scenario():
        with running(parent, code) as old:
            Path(parent).unlink()
            runs_on(replaced, old.pid)
            async with watched(paths, one, replaced=replaced) as report:
                with running(other, SLEEP):
                    await report.until(lambda: about(report, other))
                assert not about(report, child) and not about(report, parent)

    asyncio.run(scenario())


def test_a_deleted_executable_and_a_renamed_argv0(paths, tmp_path):
    evil = program(tmp_path, "evil")

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *, elsewhere:/**")
        one.interval = 1
        command = ["systemd", "-I", "-S", "-c", SLEEP]
        async with watched(paths, one) as report:
            with subprocess.Popen(command, executable=evil, stdout=subprocess.DEVNULL) as found:
                try:
                    await asyncio.sleep(0.2)
                    assert not about(report, evil)
                    Path(evil).unlink()
                    await report.until(lambda: about(report, f"{evil} (deleted)"))
                    text = about(report, evil)[0].details.description
                    assert "its executable was deleted" in text
                    label = f"{evil} (deleted)"  # what has lasted for an interval ends when it ends
                    await report.until(lambda: lasts(report, label))
                    assert f"pid: {found.pid}\n" in text
                finally:
                    found.kill()
            await report.until(lambda: about(report, evil)[-1].level == OK)

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
            await asyncio.sleep(0.2)
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
            assert len(report.alerts) == 21
            assert "more findings at once" in report.last("Many unexpected processes").details.description

    asyncio.run(scenario())


@contextmanager
def own_mounts():
    """This thread has a mount namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    yield


def in_own_mounts(scenario):
    failure = []

    def work():
        try:
            with own_mounts():
                asyncio.run(scenario())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


@pytest.mark.parametrize("place", ["in our mounts", "in those of the system"])
def test_a_process_whose_folder_in_proc_is_covered(paths, tmp_path, place, monkeypatch):
    """Also when a service manager has given us mounts, and a /proc, of our own."""
    (tmp_path / "empty").mkdir()
    # This thread has mounts of its own, the others have those of the system.
    system = str(os.getpid())
    inside = () if place == "in our mounts" else ("nsenter", f"--target={system}", "--mount")
    monkeypatch.setattr(processevents, "SYSTEM", system)

    async def scenario():
        if inside:
            subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
        async with watched(paths, check(tmp_path)) as report:
            with subprocess.Popen(["sleep", "600"]) as found:
                try:
                    cover = f"/proc/{found.pid}"
                    subprocess.run([*inside, "mount", "--bind", tmp_path / "empty", cover], check=True)
                    await report.until(lambda: f"Hidden process {found.pid}" in report.open)
                    text = report.last(f"Hidden process {found.pid}").details.description
                    assert f"a mount covers {cover}" in text
                    subprocess.run([*inside, "umount", cover], check=True)
                    await report.until(lambda: f"Hidden process {found.pid}" not in report.open)
                finally:
                    found.kill()

    in_own_mounts(scenario)


def test_a_file_under_the_name_of_another(paths, tmp_path):
    """In a mount namespace of its own an attacker puts a program over one that is listed."""
    evil = program(tmp_path, "evil")
    script = (
        f"mount --make-rprivate / && mount --bind {evil} /usr/bin/tac && exec /usr/bin/tac -I -S -c '{SLEEP}'"
    )

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *")
        async with watched(paths, one) as report:
            with subprocess.Popen(
                ["unshare", "-m", "sh", "-c", script.replace("'", '"')], stdout=subprocess.PIPE
            ) as found:
                try:
                    await report.until(lambda: about(report, "elsewhere:/usr/bin/tac"))
                finally:
                    found.kill()

    asyncio.run(scenario())


class Filtered(Procfs):
    """A listing from which a rootkit has taken a process."""

    hidden = 0

    def pids(self):
        return [pid for pid in super().pids() if pid != self.hidden]


@pytest.mark.parametrize("source", ["connector", "cgroup", "signal 0"])
def test_a_process_that_the_listing_does_not_show(paths, tmp_path, monkeypatch, source):
    if source != "cgroup":
        monkeypatch.setattr(hidden, "cgroup_processes", lambda mounts: [])
    if source != "signal 0":
        monkeypatch.setattr(hidden.HiddenProcesses, "_sweep", lambda self: iter(()))

    async def scenario():
        one, procfs = check(tmp_path), Filtered()
        one.interval = 1
        async with watched(paths, one, procfs=procfs) as report:
            with subprocess.Popen(["sleep", "600"]) as found:
                try:
                    procfs.hidden = found.pid
                    await report.until(lambda: f"Hidden process {found.pid}" in report.open)
                    text = report.last(f"Hidden process {found.pid}").details.description
                    assert "command line: sleep 600" in text
                finally:
                    found.kill()
            await report.until(lambda: f"Hidden process {found.pid}" not in report.open)

    if source == "connector" and not _has_connector():
        pytest.skip("no process connector here")
    asyncio.run(scenario())


NETLINK = """
import socket, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.bind((0, 0))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_process_that_its_netlink_socket_gives_away(paths, tmp_path, monkeypatch):
    """The kernel has its number in a list of sockets; all other traces are taken away here."""

    async def refused():
        raise UnknownError("no process connector here")

    monkeypatch.setattr(ProcConnector, "open", refused)
    monkeypatch.setattr(hidden, "cgroup_processes", lambda mounts: [])
    monkeypatch.setattr(hidden.HiddenProcesses, "_sweep", lambda self: iter(()))

    async def scenario():
        procfs = Filtered()
        with running(sys.executable, NETLINK) as found:
            procfs.hidden = found.pid
            async with watched(paths, check(tmp_path), procfs=procfs) as report:
                name = f"Hidden process {found.pid}"
                await report.until(lambda: name in report.open)
                assert "it has a netlink socket" in report.last(name).details.description

    asyncio.run(scenario())


FILTER = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
struct dirent *readdir(DIR *folder) {
    struct dirent *(*real)(DIR *) = dlsym(RTLD_NEXT, "readdir");
    struct dirent *entry;
    while ((entry = real(folder)) && getenv("HIDE") && strcmp(entry->d_name, getenv("HIDE")) == 0) {}
    return entry;
}
struct dirent64 *readdir64(DIR *folder) { return (struct dirent64 *)readdir(folder); }
"""


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("ps")), reason="needs gcc and ps")
def test_a_preloaded_library_that_hides_from_ps_does_not_hide_from_us(paths, tmp_path):
    (tmp_path / "filter.c").write_text(FILTER)
    library = tmp_path / "filter.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "filter.c"], check=True)
    evil = program(tmp_path, "evil")

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            with running(evil, SLEEP) as found:
                environment = os.environ | {"LD_PRELOAD": str(library), "HIDE": str(found.pid)}
                listing = subprocess.run(
                    ["ps", "-e"], env=environment, capture_output=True, text=True, check=True
                )
                assert str(found.pid) not in [line.split()[0] for line in listing.stdout.splitlines()]
                await report.until(lambda: about(report, evil))

    asyncio.run(scenario())


@pytest.mark.parametrize("fanotify", [True, False])
def test_without_the_connector(paths, tmp_path, monkeypatch, fanotify):
    """In a container: fanotify alone sees every program; without it a look at /proc each two seconds does."""

    _without_events(monkeypatch, fanotify=fanotify)
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


def test_who_may_not_look_does_not_know(paths, tmp_path):
    class Others(Procfs):
        def pids(self):
            return [os.getpid()]

    async def scenario():
        async with watched(paths, check(tmp_path), procfs=Others()) as report:
            assert "hidepid" in report.reason

    asyncio.run(scenario())


def test_without_a_list_it_is_unknown(paths, tmp_path):
    async def scenario():
        async with watched(paths, check(tmp_path, PROCESS_ALLOW="")) as report:
            assert report.reason == "no baseline: run monitorctl baseline learn process all"

    asyncio.run(scenario())


def test_what_is_learned_is_expected(paths, tmp_path):
    evil = program(tmp_path, "evil")

    async def scenario():
        with running(evil, SLEEP):
            one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="")
            rows = [image.row for image in await one.survey(Host(paths, Clock()))]
            assert evil in rows

    asyncio.run(scenario())


def test_what_the_monitor_itself_starts_is_learned(paths, tmp_path):
    """
    A scan begins after the list was learned; it is no finding.
    """

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="", PROCESS_MAX_ALERTS="100000")
        rows = [image.row for image in await one.survey(Host(paths, Clock()))]
        paths.baseline_d.mkdir(parents=True)
        (paths.baseline_d / "process_all.list").write_text("\n".join(rows))
        async with watched(paths, one) as report:
            await Scanner().hash_all(["/bin/true"])
            evil = program(tmp_path, "evil")
            with running(evil, SLEEP):
                await report.until(lambda: about(report, evil))
            assert not about(report, Path(scan.__file__))

    asyncio.run(scenario())
