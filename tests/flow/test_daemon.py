"""The daemon as a whole: a real process, a real bus, real files; systemd is a stand-in here."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mender_monitor_py import __version__, silence
from mender_monitor_py.alertstate import State, encode
from mender_monitor_py.hold import Hold
from mender_monitor_py.holding import META
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CRITICAL, OK, CheckId, Observation, Subject
from mender_monitor_py.outbox import Changes
from tests.fakes.fake_systemd import FakeSystemd
from tests.fakes.monitor import PROJECT, Monitor

NOT_RUNNING = "Service cron not running"


def watch(
    paths, private_bus, story: Callable[[Monitor, FakeSystemd], Awaitable[None]], *, start: bool = True
) -> None:
    """Play *story* with a daemon and a systemd that has cron.service running."""

    async def play() -> None:
        async with FakeSystemd(private_bus.address) as systemd:
            systemd.add("cron.service")
            monitor = Monitor(paths)
            monitor.enable("service", "cron", SERVICE_NAME="cron", SERVICE_TYPE="systemd")
            if start:
                async with monitor:
                    await monitor.until_state("service cron", OK)
                    await story(monitor, systemd)
            else:
                try:
                    await story(monitor, systemd)
                finally:
                    await monitor.__aexit__()

    asyncio.run(play())


def test_a_service_that_stops_and_starts_is_told(paths, private_bus):
    """
    CRITICAL when the service stops, OK when it runs again.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        await systemd.change("cron.service", "inactive", "dead")
        await monitor.until_alerts((CRITICAL, NOT_RUNNING))
        await monitor.until_state("service cron", CRITICAL)
        await systemd.change("cron.service", "active", "running")
        await monitor.until_alerts((CRITICAL, NOT_RUNNING), (OK, NOT_RUNNING))
        await monitor.until_state("service cron", OK)

    watch(paths, private_bus, story)


def test_checks_come_and_go_without_a_restart(paths, private_bus, tmp_path):
    """
    Checks that are enabled, changed, disabled and deleted take effect; the others do not notice.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        log = tmp_path / "app.log"
        log.write_text("fine\nan error here\n")
        monitor.enable("log", "app", SERVICE_NAME="app", LOG_PATTERN="error", LOG_FILE=str(log))
        await monitor.until_alerts((CRITICAL, "Log file contains error"))
        await systemd.change("cron.service", "inactive", "dead")
        monitor.enable("log", "app", SERVICE_NAME="app", LOG_PATTERN="fatal", LOG_FILE=str(log))
        # Checks are started in order: when this one has looked, the one before it has its new pattern.
        monitor.enable("log", "later", SERVICE_NAME="later", LOG_PATTERN="nothing", LOG_FILE=str(log))
        await monitor.until_state("log later", OK)
        with log.open("a") as file:
            file.write("fatal\n")
        await monitor.until(lambda: len(monitor.alerts()) >= 4)
        assert sorted(monitor.alerts()) == sorted(
            [
                (CRITICAL, "Log file contains error"),
                (CRITICAL, NOT_RUNNING),
                (OK, "Log file contains error"),
                (CRITICAL, "Log file contains fatal"),
            ]
        )
        monitor.disable("log", "app")
        await monitor.until(lambda: "log app" not in monitor.states())
        (monitor.checks / "available/log_app.sh").unlink()
        await monitor.until(lambda: monitor.alerts()[-1] == (OK, "Log file contains fatal"))

    watch(paths, private_bus, story)


def test_a_check_that_cannot_work_is_told_and_hurts_no_other(paths, private_bus):
    """
    A bad pattern: file, line and reason are in the status; the other checks go on.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        monitor.enable("log", "bad", SERVICE_NAME="bad", LOG_PATTERN="(", LOG_FILE="/nowhere")
        monitor.enable("nothing", "like-that", X="1")
        await monitor.until_state("log bad", "failed")
        await monitor.until_state("nothing like-that", "failed")
        errors = {c["name"]: c["error"] for c in monitor.status()["checks"]}
        assert "log_bad.sh:2: LOG_PATTERN: " in errors["bad"]
        assert "no subsystem 'nothing'" in errors["like-that"]
        await systemd.change("cron.service", "failed", "failed")
        await monitor.until_alerts((CRITICAL, NOT_RUNNING))

    watch(paths, private_bus, story)


def test_states_survive_a_restart(paths, private_bus):
    """
    No second CRITICAL after a restart; an OK when the cause ended meanwhile, an alert for what broke.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        systemd.add("ssh.service")
        monitor.enable("service", "ssh", SERVICE_NAME="ssh")
        await monitor.start()
        await monitor.until_state("service ssh", OK)
        await systemd.change("cron.service", "inactive", "dead")
        await monitor.until_alerts((CRITICAL, NOT_RUNNING))
        assert await monitor.end() == 0

        await monitor.start()
        await monitor.until_state("service cron", CRITICAL)
        await monitor.until_state("service ssh", OK)
        assert await monitor.end(signal.SIGKILL) == -signal.SIGKILL

        await systemd.change("cron.service", "active", "running")
        await systemd.change("ssh.service", "inactive", "dead")
        await monitor.start()
        await monitor.until_state("service cron", OK)
        await monitor.until_state("service ssh", CRITICAL)
        await monitor.until(lambda: len(monitor.alerts()) >= 3)
        assert monitor.alerts()[0] == (CRITICAL, NOT_RUNNING)
        assert sorted(monitor.alerts()[1:]) == [
            (CRITICAL, "Service ssh not running"),
            (OK, NOT_RUNNING),
        ]

    watch(paths, private_bus, story, start=False)


def test_nothing_is_alerted_because_the_device_shuts_down(paths, private_bus):
    """
    Services that stop while the system goes down are no news.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        systemd.system_state = "stopping"
        systemd.calls.clear()
        await systemd.change("cron.service", "inactive", "dead")
        await systemd.until(lambda: "Get" in systemd.calls)
        assert await monitor.end() == 0
        assert monitor.alerts() == []

    watch(paths, private_bus, story)


def test_reload_reads_the_settings_again(paths, private_bus):
    """
    SIGHUP: another level for services is in force, and nothing is told twice.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        paths.overrides.write_text("DEFAULT_SERVICE_ALERT_LEVEL=WARNING\nFLAPPING_INTERVAL=never\n")
        monitor.signal(signal.SIGHUP)
        await monitor.until(lambda: monitor.status()["warnings"])
        assert "monitor.conf:2: FLAPPING_INTERVAL" in monitor.status()["warnings"][0]
        await monitor.until_state("service cron", OK)
        await systemd.change("cron.service", "inactive", "dead")
        await monitor.until_alerts(("WARNING", NOT_RUNNING))

    watch(paths, private_bus, story)


def test_a_silent_check_tells_later_what_is_still_so(paths, private_bus):
    """
    During maintenance nothing is sent; what is as before afterwards never is, what is not is told then.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        with monitor.another_program() as outbox:
            silence.begin(outbox, CheckId("service", "cron"), 3600, "disk", Clock().now())
        systemd.add("ssh.service")
        monitor.enable("service", "ssh", SERVICE_NAME="ssh")
        await monitor.until_state("service ssh", OK)
        for state in ("inactive", "active", "inactive"):
            await systemd.change("cron.service", state)
            await monitor.until_state("service cron", OK if state == "active" else CRITICAL)
        assert monitor.alerts() == []
        with monitor.another_program() as outbox:
            silence.end(outbox, CheckId("service", "cron"))
        await monitor.until_alerts((CRITICAL, NOT_RUNNING))
        with monitor.another_program() as outbox:
            silence.begin(outbox, CheckId("service", "cron"), 2, "disk", Clock().now())
        await systemd.change("ssh.service", "inactive")
        await monitor.until(lambda: len(monitor.alerts()) == 2)
        await systemd.change("cron.service", "active")
        await monitor.until(lambda: len(monitor.alerts()) == 3)
        assert monitor.alerts()[-1] == (OK, NOT_RUNNING)

    watch(paths, private_bus, story)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_slow_disk_keeps_nothing_from_the_daemon(paths, private_bus):
    """
    What another program writes counts when the disk has it, long after the kernel told of the write.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        with monitor.another_program() as outbox:
            silence.begin(outbox, CheckId("service", "cron"), 3600, "disk", Clock().now())
        async with monitor:
            await monitor.until_state("service cron", OK)
            await systemd.change("cron.service", "inactive")
            await monitor.until_state("service cron", CRITICAL)
            assert monitor.alerts() == []
            slow = ["strace", "-f", "-o", "/dev/null", "-e", "inject=fsync,fdatasync:delay_enter=300000"]
            ctl = [sys.executable, "-c", "from mender_monitor_py.ctl import main; main()"]
            command = [*slow, *ctl, "unsilence", "service", "cron"]
            done = await asyncio.to_thread(subprocess.run, command, cwd=PROJECT, timeout=60, check=False)
            assert done.returncode == 0
            async with asyncio.timeout(45):
                await monitor.until_alerts((CRITICAL, NOT_RUNNING))

    watch(paths, private_bus, story, start=False)


def test_a_silence_outlives_a_hold_that_an_earlier_run_has_left(paths, private_bus):
    """
    What was kept back for both of them waits for the end of the longer one, over a restart of the daemon.
    """
    clock, check = Clock(), CheckId("login", "root")
    now = clock.now()
    login = Observation(CRITICAL, "Root login over ssh", Subject("root", "login", "accepted"), event=True)
    state = State(last=login, since=now.boottime, seen_at=now.boottime, untold=login.details)
    hold = Hold("d-1", "release-2", "release-1", now, "", ("single-file",), over=True)

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        monitor.create("login", "root")
        with monitor.another_program() as outbox:
            silence.begin(outbox, None, 3600, "move", now)
            outbox.set_meta(META, hold.to_text())
            outbox.commit(Changes(states={(check, ""): encode(state, now)}))
        await monitor.start()
        await monitor.until_state("service cron", OK)
        assert monitor.alerts() == []
        with monitor.another_program() as outbox:
            silence.end_all(outbox)
        await monitor.until_alerts((CRITICAL, login.name))

    watch(paths, private_bus, story, start=False)


def test_silence_for_all_counts_for_checks_that_are_made_meanwhile(paths, private_bus):
    """
    Under a silence for everything nothing is told, of a new check either, over a restart of the daemon; what
    began in it is told at its end with its own time.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        with monitor.another_program() as outbox:
            silence.begin(outbox, None, 3600, "move", Clock().now())
        systemd.add("ssh.service")
        monitor.enable("service", "ssh", SERVICE_NAME="ssh")
        await monitor.until_state("service ssh", OK)
        await systemd.change("ssh.service", "inactive")
        await monitor.until_state("service ssh", CRITICAL)
        began = Clock().now().wall
        assert await monitor.end() == 0
        async with monitor:
            await monitor.until_state("service ssh", CRITICAL)
            assert monitor.alerts() == []
            with monitor.another_program() as outbox:
                silence.end_all(outbox)
            await monitor.until_alerts((CRITICAL, "Service ssh not running"))
            told = monitor.outbox.records()[0]
            assert told.at.wall <= began

    watch(paths, private_bus, story)


def test_a_silence_of_an_earlier_boot_ends_whatever_the_clock_was_then(paths, private_bus):
    """
    The clock was years ahead when it was asked for: from the daemon's start on the time since boot counts.
    """

    async def story(monitor: Monitor, _: FakeSystemd) -> None:
        now = Clock().now()
        before = replace(now, boot_id="an earlier one", wall=now.wall + 1e8)
        with monitor.another_program() as outbox:
            silence.begin(outbox, None, 600, "", before)
        async with monitor:
            later = replace(now, boottime=now.boottime + 660, wall=now.wall + 660)
            await monitor.until(lambda: silence.active(monitor.outbox, later).everything is None)
            assert silence.active(monitor.outbox, now).everything is not None

    watch(paths, private_bus, story, start=False)


def test_only_one_runs_and_its_pid_is_known(paths, private_bus):
    """
    The pid file names the daemon; a second one refuses, and the first one does not notice.
    """

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        assert paths.pid_file.read_text() == f"{monitor.pid}\n"
        second = subprocess.run(
            [sys.executable, "-m", "mender_monitor_py.monitord"],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1
        assert second.stderr.startswith("mender-monitord: another mender-monitord runs")
        assert await monitor.end() == 0
        assert not paths.pid_file.exists()
        assert not paths.status.exists()

    watch(paths, private_bus, story)


def test_the_pid_file_may_be_a_link(paths, private_bus):
    """
    Where only one folder of /run can be written, the pid file is a link into it, and stays one.
    """
    paths.pid_file.parent.mkdir(parents=True)
    paths.pid_file.symlink_to(paths.run / "monitoring-client.pid")

    async def story(monitor: Monitor, systemd: FakeSystemd) -> None:
        assert paths.pid_file.read_text() == f"{monitor.pid}\n"
        assert await monitor.end() == 0
        assert paths.pid_file.is_symlink() and not paths.pid_file.exists()

    watch(paths, private_bus, story)


@pytest.mark.parametrize(
    ("arguments", "status", "output"),
    [
        (["--version"], 0, f"mender-monitord {__version__}\n"),
        (["--help"], 0, "Usage: "),
        (["--frobnicate"], 2, "Usage: "),
    ],
)
def test_the_command_line(tmp_path: Path, arguments, status, output):
    """
    The daemon takes no arguments but these two.
    """
    result = subprocess.run(
        [sys.executable, "-m", "mender_monitor_py.monitord", *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "MENDER_MONITOR_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert output in (result.stderr if status else result.stdout)
    assert list(tmp_path.iterdir()) == []
