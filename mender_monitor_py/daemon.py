"""
The daemon: wires the parts, listens to signals and to the folders of checks, and decides nothing.

Runs in the foreground, as a service manager wants it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mender_monitor_py import __version__, logsetup, silence, statusfile
from mender_monitor_py.alertstate import Limits
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.errors import MonitorError
from mender_monitor_py.holding import Holding
from mender_monitor_py.host import inotify
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.notify import Notify
from mender_monitor_py.host.timer import ClockStep
from mender_monitor_py.inventory import Inventory
from mender_monitor_py.ledger import LAZY_S
from mender_monitor_py.outbox import Limits as OutboxLimits
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.quiet import Quiet
from mender_monitor_py.recorder import Recorder
from mender_monitor_py.sender import Sender
from mender_monitor_py.settings import Settings
from mender_monitor_py.supervisor import Supervisor

_FOLDER_EVENTS = (
    inotify.IN_ATTRIB
    | inotify.IN_CLOSE_WRITE
    | inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_MOVE_SELF
)
GATHER_S = 0.05
# A look that fails closes the outbox, which is an event like that of another program.
OUTBOX_RETRY_S = 10.0
STATUS_S = 0.05

log = logging.getLogger(__name__)

_USAGE = f"""mender-monitord {__version__}: watches the device for the checks that are enabled

Usage: mender-monitord [--version | --help]

Signals: TERM ends it; HUP reads the settings and all checks again; USR1 sends what waits now.
The checks are managed with mender-monitorctl.
"""


class Daemon:
    """One run of the daemon."""

    def __init__(self, paths: Paths, settings: Settings, warnings: list[str]) -> None:
        self._paths = paths
        self._settings = settings
        self._warnings = warnings
        self._notify = Notify()
        self._clock = Clock()
        self._host = Host(paths, self._clock)
        self._started = self._clock.now()
        self._later: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._outbox_wait = GATHER_S
        self._ended = asyncio.Event()
        self._watches: list[inotify.Watch] = []
        self._jobs: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises MonitorError and OSError when it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        self._catalog = Catalog(self._paths, self._settings)
        self._outbox = Outbox(self._paths.outbox, OutboxLimits.of(self._settings), self._clock)
        self._sender = Sender(
            self._outbox, self._settings, self._paths, self._host, changed=self._status_soon
        )
        self._recorder = Recorder(
            self._outbox, self._clock, _limits(self._settings), self._sender.wake, self._status_soon
        )
        self._supervisor = Supervisor(self._catalog, self._recorder, self._host, self._status_soon)
        self._inventory = Inventory(self._paths.inventory, self._outbox, self._recorder.run_in_worker)
        self._recorder.load()
        self._holding = Holding(
            self._host,
            self._outbox,
            self._recorder.run_in_worker,
            self._settings.deployment_grace,
            self._judge_quiet,
        )
        self._holding.start()
        self._judge_quiet()
        self._settle_soon()  # what is left of the silences of earlier boots, by whatever clock they had
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        loop.add_signal_handler(signal.SIGUSR1, self._sender.send_now)
        clock_step = ClockStep(self._clock_was_set)
        self._watch_outbox()
        await self._reconcile()
        sending = loop.create_task(self._sender.run())
        watchdog = loop.create_task(self._keep_alive())
        self._notify.ready()
        log.info("mender-monitord %s watches %d checks", __version__, len(self._supervisor.definitions))
        await self._ended.wait()
        self._notify.stopping()
        self._recorder.stop_observing()
        for task in (watchdog, sending, *self._jobs):
            task.cancel()
        clock_step.close()
        await self._supervisor.stop()
        await asyncio.gather(watchdog, sending, *self._jobs, return_exceptions=True)
        await self._holding.aclose()
        await self._recorder.run_in_worker(self._settle)
        await self._recorder.close()
        for timer in self._later.values():
            timer.cancel()
        self._paths.status.unlink(missing_ok=True)
        await self._host.aclose()
        self._outbox.close()

    # Events

    def _soon(self, what: Callable[[], None], wait: float) -> None:
        """Call *what* once, *wait* seconds from now, however often this is asked meanwhile."""
        if what not in self._later:
            self._later[what] = asyncio.get_running_loop().call_later(wait, self._now, what)

    def _now(self, what: Callable[[], None]) -> None:
        del self._later[what]
        what()

    def _job(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    def _folder_changed(self, _: inotify.Event) -> None:
        self._soon(self._reconcile_soon, GATHER_S)

    def _reconcile_soon(self) -> None:
        if not self._ended.is_set():
            self._job(self._reconcile())

    def _reload_soon(self) -> None:
        self._job(self._reload())

    async def _reconcile(self, *, fresh: bool = False) -> None:
        self._watch_folders()
        try:
            await self._supervisor.reconcile(fresh=fresh)
        except MonitorError as error:
            log.error("%s", error)
        self._sender.checks_changed(self._supervisor.definitions)

    async def _reload(self) -> None:
        """SIGHUP: the settings, then every check, are read again."""
        self._notify.reloading()
        self._settings, self._warnings = load_settings(self._paths)
        _warn(self._warnings)
        try:
            logsetup.set_up(self._settings.config_log_level, self._settings.daemon_log_file)
        except OSError as error:
            log.error("DAEMON_LOG_FILE cannot be written: %s", error)
        self._catalog.settings = self._settings
        self._outbox.limits = OutboxLimits.of(self._settings)
        self._recorder.set_limits(_limits(self._settings))
        self._holding.set_grace(self._settings.deployment_grace)
        self._sender.set_settings(self._settings)
        await self._reconcile(fresh=True)
        self._notify.ready()
        log.info("settings and checks were read again")

    def _watch_folders(self) -> None:
        """Watch the folders of the checks, or what they will be made in."""
        for watch in self._watches:
            watch.cancel()
        self._watches = []
        for folder in self._catalog.folders():
            try:
                watch = self._host.inotify.watch(_existing(folder), _FOLDER_EVENTS, self._folder_changed)
            except OSError as error:
                log.error("%s is not watched, changes in it are seen at SIGHUP only: %s", folder, error)
                continue
            self._watches.append(watch)

    def _watch_outbox(self) -> None:
        """
        Other programs add alerts too, and close the outbox when they have.

        The event of their write is too early for a look: SQLite lets others see it when it is synced to the
        disk, by the index in shared memory (sqlite.org/walformat.html), of which there is no event.
        """
        folder = self._paths.outbox.parent
        try:
            self._host.inotify.watch(_existing(folder), inotify.IN_CLOSE_WRITE, self._outbox_closed)
        except OSError as error:
            log.error("%s is not watched, alerts of scripts wait for the next interval: %s", folder, error)

    def _outbox_closed(self, event: inotify.Event) -> None:
        if event.name == f"{self._paths.outbox.name}-wal":
            self._soon(self._look_at_outbox, self._outbox_wait)

    def _look_at_outbox(self) -> None:
        self._sender.wake()
        self._judge_quiet()

    def _judge_quiet(self) -> None:
        """A silence, or the hold, may be another. Never one without the other: what is due would be told."""
        now = self._clock.now()
        try:
            silences = silence.active(self._outbox, now)
        except MonitorError as error:
            log.error("%s", error)
            self._outbox_wait = OUTBOX_RETRY_S
            self._recorder.set_quiet(replace(self._recorder.quiet, held=self._holding.held))
            return
        self._outbox_wait = GATHER_S
        until = {check: now.boottime + one.left for check, one in silences.checks.items()}
        everything = now.boottime + silences.everything.left if silences.everything else 0.0
        self._recorder.set_quiet(Quiet(until, everything, self._holding.held))
        if (until or everything) and not now.known:
            self._soon(self._settle_soon, LAZY_S)

    def _clock_was_set(self) -> None:
        log.info("the wall clock was set")
        self._settle_soon()
        self._sender.wake()

    def _settle_soon(self) -> None:
        self._job(self._recorder.run_in_worker(self._settle))

    def _settle(self) -> None:
        """Write down the right times of what waits, while this boot's clock is there to tell them."""
        now = self._clock.now()
        try:
            self._outbox.settle(now)
            silence.settle(self._outbox, now)
            self._holding.settle()
        except MonitorError as error:
            log.error("%s", error)

    async def _keep_alive(self) -> None:
        while self._notify.watchdog:
            self._notify.alive()
            await asyncio.sleep(self._notify.watchdog / 2)

    # Status

    def _status_soon(self) -> None:
        self._soon(self._write_status, STATUS_S)

    def _write_status(self) -> None:
        now = self._clock.now()
        checks = [
            statusfile.check_status(check, self._recorder.record(check), running.error, now)
            for check, running in self._supervisor
        ]
        daemon = {
            "pid": os.getpid(),
            "version": __version__,
            "started": now.wall - (now.boottime - self._started.boottime),
        }
        warnings = [*self._warnings, *([self._recorder.error] if self._recorder.error else [])]
        hold = self._holding.status()
        if hold is not None:
            hold["findings"] = sum(not told["told"] for check in checks for told in check["findings"])
        sender = self._sender.status()
        others = {"sender": sender, "held": hold, "warnings": warnings}
        if not self._ended.is_set():  # it stays when the checks are gone
            self._inventory.write(checks, sender["last_contact"])
        try:
            statusfile.write(self._paths.status, daemon, checks, others)
        except OSError as error:
            log.debug("the status is not written: %s", error)
        bad = sum(check["state"] not in ("OK", "starting") for check in checks)
        self._notify.status(f"{len(checks)} checks, {bad} of them not OK")


def main() -> None:
    """The program ``mender-monitord``, by way of :mod:`mender_monitor_py.monitord`."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"mender-monitord {__version__}\n")
        return
    if arguments:
        wanted = arguments in (["--help"], ["-h"], ["help"])
        (sys.stdout if wanted else sys.stderr).write(_USAGE)
        sys.exit(0 if wanted else 2)
    try:
        _run(Paths.from_environment())
    except (MonitorError, OSError) as error:
        sys.exit(f"mender-monitord: {error}")


def _run(paths: Paths) -> None:
    settings, warnings = load_settings(paths)
    logsetup.set_up(settings.config_log_level, settings.daemon_log_file)
    _warn(warnings)
    for folder in (paths.run, paths.state):
        folder.resolve().mkdir(mode=0o755, parents=True, exist_ok=True)  # a link may dangle
    with _only_one(paths):
        asyncio.run(Daemon(paths, settings, warnings).run())


@contextmanager
def _only_one(paths: Paths) -> Iterator[None]:
    """Hold the lock and the pid file of the one daemon. Raises MonitorError when another has them."""
    lock = os.open(paths.run / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # May be a link into the only folder of /run that can be written.
        pid_file = paths.pid_file.resolve()
        pid_file.parent.mkdir(parents=True, exist_ok=True)
        pid_file.write_text(f"{os.getpid()}\n")
        yield
        pid_file.unlink(missing_ok=True)
    except BlockingIOError:
        raise MonitorError(f"another mender-monitord runs: see {paths.pid_file}") from None
    finally:
        os.close(lock)


def _limits(settings: Settings) -> Limits:
    return Limits(settings.flapping_interval, settings.flapping_count_threshold)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        log.warning("%s", warning)


def _existing(folder: Path) -> Path:
    """*folder*, or the nearest one above it that exists."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
