"""Programs that are not expected, really run on this machine: the list, and what is found. Needs root."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mender_monitor_py import scan
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.replaced import Replaced
from mender_monitor_py.host.scanner import Scanner
from mender_monitor_py.model import CRITICAL, OK
from mender_monitor_py.subsystems import expected, process
from tests.fakes.network import program, running
from tests.fakes.process_checks import SLEEP, about, check, connected, lasts, run, without_events
from tests.fakes.watched import looked as watched
from tests.fakes.watched import runs_on

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


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
                await report.until(lambda: report.states[evil].repeats)
            assert len(about(report, evil)) == 1

    asyncio.run(scenario())


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


@pytest.mark.parametrize("events", [pytest.param(True, marks=connected), False])
def test_links_in_a_list_are_followed(paths, tmp_path, monkeypatch, events):
    """
    The kernel names a program without links. Where they lead to may change: by an upgrade, as an example.
    """
    if not events:
        without_events(monkeypatch)
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


def test_code_on_the_command_line_is_no_plain_interpreter(paths, tmp_path):
    """An entry for an interpreter alone does not stand for every code that it can be given."""
    evil = program(tmp_path, "python3")

    async def scenario():
        async with watched(paths, check(tmp_path, PROCESS_ALLOW=f"{evil} -c")) as report:
            with running(evil, SLEEP):
                await report.until(lambda: about(report, evil))
                assert about(report, evil)[0].subject.name == f"{evil} -c"

    asyncio.run(scenario())


# Other tests of this machine run such programs, too.
INNOCENT = f"innocent-{os.getpid()}"
MEMFD = f"""
import os, sys
fd = os.memfd_create("{INNOCENT}", os.MFD_CLOEXEC)
os.write(fd, open(sys.argv[1], "rb").read())
os.execve(fd, ["kworker", "600"], {{}})
"""


def test_a_program_without_a_file(paths, tmp_path):
    """memfd_create and execveat: a finding whatever the list says."""

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *, elsewhere:/**")
        async with watched(paths, one) as report:
            command = [sys.executable, "-c", MEMFD, "/bin/sleep"]
            with subprocess.Popen(command) as found:
                try:
                    await report.until(lambda: about(report, f"memfd:{INNOCENT}"))
                    (alert,) = about(report, f"memfd:{INNOCENT}")
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
    without_events(monkeypatch)
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
    without_events(monkeypatch)
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
    without_events(monkeypatch)
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
