"""
A process that is another one than before: it was restarted, or it is gone.

While it lives nothing is done: a pidfd tells its end, the process connector how it ended and what is executed
next. Where those are missing, and while it is away, there is a look each PID_INTERVAL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mender_monitor_py.commandline import printable
from mender_monitor_py.duration import seconds
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import inotify, sysvinit
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.mainprocess import Found, by_command_line, by_executable, by_pid_file
from mender_monitor_py.host.pattern import Pattern, compile_pattern
from mender_monitor_py.host.pidfd import ProcessEnd
from mender_monitor_py.host.processevents import Execution, Exit
from mender_monitor_py.host.procfs import Process
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.pidwatch import Main, ended_in_order, how_it_ended, lifetime, restarted
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.expected import wait
from mender_monitor_py.subsystems.fields import absolute_path, interval, yes_no
from mender_monitor_py.unitstate import Unit, unit_name

SETTLE_S = 0.02  # an exit is told by several descriptors, in any order
EXIT_S = 2.0  # how it ended is told last: on a busy machine long after that it did
AWAY_S, AWAY_SETTLE_S = 10.0, 0.5  # what is away for long may be noticed so much later
SAFETY_S = 60.0  # from look to look while events tell all
BOOT_S = 180.0  # services come up

_FILE_EVENTS = inotify.IN_CLOSE_WRITE | inotify.IN_MOVED_TO | inotify.IN_CREATE | inotify.IN_DELETE


def _pattern(text: str) -> Pattern | None:
    return compile_pattern(text) if text else None


def _unit(text: str) -> str:
    return unit_name(text) if text else ""


_EXE = Field("PID_EXE", absolute_path, "the executable of the process")
_FILE = Field("PID_FILE", absolute_path, "a file with its number")
_SERVICE = Field("PID_SERVICE", _unit, "the systemd service whose main process it is")
_CMDLINE = Field("PID_CMDLINE", _pattern, "a regular expression for its command line")
_EXPIRATION = Field("PID_EXPIRATION", seconds, "a restart is over after this", default="1h")
_REQUIRE = Field("PID_REQUIRE", yes_no, "no: it need not run", default="yes")
_GRACE = Field("PID_GRACE", seconds, "how long it may be away", default="10s")
_INTERVAL = Field("PID_INTERVAL", interval, "time from look to look where nothing tells", default="2s")


class PidCheck(Check):
    """A process was restarted, or does not run any more."""

    subsystem = "pid"
    summary = "a process that is restarted or goes away"
    fields = (_EXE, _FILE, _SERVICE, _CMDLINE, _EXPIRATION, _REQUIRE, _GRACE, _INTERVAL)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.executable: str = definition.value(_EXE)
        self.file: str = definition.value(_FILE)
        self.service: str = definition.value(_SERVICE)
        self.pattern: Pattern | None = definition.value(_CMDLINE)
        given = [field.name for field in (_EXE, _FILE, _SERVICE, _CMDLINE) if definition.text(field)]
        if len(given) != 1:
            names = "PID_EXE, PID_FILE, PID_SERVICE and PID_CMDLINE"
            raise definition.error(given[-1] if given else "PID_EXE", f"exactly one of {names} is needed")
        self.required: bool = definition.value(_REQUIRE)
        self.grace: float = definition.value(_GRACE)
        self.interval: float = definition.value(_INTERVAL)
        self._expiration: float = definition.value(_EXPIRATION)
        self.label = printable(self._label(), 200)

    @property
    def expires_after(self) -> float | None:
        return self._expiration or None

    def _label(self) -> str:
        if self.pattern is not None:
            return self.id.name
        if self.service:
            return self.service.removesuffix(".service")
        return Path(self.executable or self.file.removesuffix(".pid")).name

    async def run(self, host: Host, report: Report) -> None:
        with closing(_Watch(self, host, report)) as watch:
            async with host.processes.listening(watch):
                await watch.run()


@dataclass
class _Gone:
    """The process is away: since when, by how much it is known, and why."""

    since: float
    reason: str
    told: bool = False


class _Watch:
    """One run of the check; a listener of the process events."""

    def __init__(self, check: PidCheck, host: Host, report: Report) -> None:
        self._check = check
        self._host = host
        self._report = report
        self._wake = asyncio.Event()
        self._exit_told = asyncio.Event()
        main = Main.from_text(report.memory)
        # The processes of another boot are not missed.
        self._main = main if main is not None and main.boot_id == host.clock.now().boot_id else None
        self._end: ProcessEnd | None = None
        self._ended: float | None = None
        self._exit: Exit | None = None
        self._gone: _Gone | None = None
        self._unit: Unit | UnknownError | None = None
        self._undo: list[Callable[[], Any]] = []

    async def run(self) -> None:
        self._listen()
        while self._check.service and self._unit is None:  # systemd is asked; processes may wake us before
            self._wake.clear()
            await self._wake.wait()
        while True:
            self._wake.clear()
            try:
                found = await self._find()
            except UnknownError as error:
                self._report.unknown(str(error))
            else:
                if found.stat is None:
                    await self._away(found.reason)
                else:
                    await self._here(self._main_of(found))
            await self._report.pause(self._patience(), self._wake)
            await asyncio.sleep(self._settle())
            if self._ended is not None and self._gone is None and self._host.processes.sees_exits:
                await wait(self._exit_told, EXIT_S)

    def close(self) -> None:
        if self._end is not None:
            self._end.close()
        for undo in self._undo:
            undo()

    def _listen(self) -> None:
        if self._check.service:
            self._undo.append(self._host.systemd.watch(self._check.service, self._unit_changed))
        if self._check.file:
            self._watch_file()

    def _watch_file(self) -> None:
        file = Path(self._check.file)

        def changed(event: inotify.Event) -> None:
            if event.name in (file.name, ""):
                self._wake.set()

        try:
            watch = self._host.inotify.watch(file.parent, _FILE_EVENTS, changed)
        except OSError:
            return  # there is no such folder yet: it is looked at in intervals
        self._undo.append(watch.cancel)

    def _unit_changed(self, state: Unit | UnknownError) -> None:
        self._unit = state
        self._wake.set()

    # What the process events tell

    def executed(self, executions: list[Execution]) -> None:
        # Something is started while it is away, or it becomes another program itself.
        if self._gone is not None or any(one.pid == self._pid for one in executions):
            self._wake.set()

    def exited(self, exits: list[Exit]) -> None:
        for end in exits:
            if end.pid == self._pid:
                self._exit = end
                self._exit_told.set()
                self._wake.set()

    def events_lost(self) -> None:
        if self._ended is not None:
            self._exit_told.set()  # it may be among them
        self._wake.set()

    def mounts_changed(self) -> None:
        pass

    @property
    def _pid(self) -> int:
        return self._main.pid if self._main is not None and self._end is not None else 0

    def _process_ended(self) -> None:
        self._ended = self._host.clock.boottime()
        self._wake.set()

    def _patience(self) -> float:
        """Seconds until the next look, should nothing happen."""
        if self._gone is None and self._end is not None:
            return SAFETY_S
        return self._check.interval

    def _settle(self) -> float:
        """
        Seconds from an event to the look that it leads to.

        While the process is away each program that anybody starts is one, and a look reads all of /proc.
        """
        away = self._gone is not None and self._host.clock.boottime() - self._gone.since >= AWAY_S
        return AWAY_SETTLE_S if away else SETTLE_S

    # Finding and judging

    async def _find(self) -> Found:
        check, procfs = self._check, self._host.procfs
        if check.executable:
            return by_executable(procfs, check.executable)
        if check.pattern is not None:
            return by_command_line(procfs, check.pattern)
        if check.file:
            now = self._host.clock.now()
            return by_pid_file(procfs, check.file, now.boottime, now.wall)
        return await self._find_service()

    async def _find_service(self) -> Found:
        unit = self._unit
        if isinstance(unit, UnknownError):
            raise unit
        assert unit is not None
        if unit.load != "loaded":
            return Found(None, f"{unit.name} is {unit.load}")
        pid = await self._host.systemd.main_pid(unit)
        stat = self._host.procfs.stat(pid) if pid else None
        return Found(stat, f"{unit.name} is {unit.active} ({unit.sub}) and has no main process")

    def _main_of(self, found: Found) -> Main:
        assert found.stat is not None
        now = self._host.clock.now()
        age = self._host.procfs.age(found.stat.pid, now.boottime) or 0.0
        return Main(now.boot_id, found.stat.pid, found.stat.start, now.boottime - age)

    async def _here(self, main: Main) -> None:
        old, self._gone = self._main, None
        if old is None or not old.same(main) or self._end is None:
            self._exit_told.clear()
            if not self._follow(main):
                return  # it ended meanwhile
            if old is not None and restarted(old, main, self._ended, self._descends(main, old)):
                if await self._going_down():
                    return
                if self._is_update():
                    self._report.remember(main.to_text())
                else:
                    self._report.observe(self._restarted(old, main), main.to_text())
            elif old is None or not old.same(main):
                self._report.remember(main.to_text())
            self._main, self._ended, self._exit = main, None, None
        if self._check.required:
            self._report.observe(self._running(main))
        else:
            self._report.known()

    def _descends(self, new: Main, old: Main) -> bool | None:
        """Whether *new* was started by *old*, or by a child of it; None: the events do not tell."""
        birth = self._host.processes.born.get(new.pid)
        return old.pid in birth if birth is not None else None

    def _follow(self, main: Main) -> bool:
        """Have the end of *main* told; False when it has ended already."""
        if self._end is not None:
            self._end.close()
            self._end = None
        try:
            self._end = ProcessEnd(main.pid, self._process_ended)
        except ProcessLookupError:
            self._wake.set()
            return False
        except OSError as error:
            self._report.note("pidfd", f"no pidfd, a look each {self._check.interval:g} s: {error.strerror}")
        return True

    async def _away(self, reason: str) -> None:
        now = self._host.clock.boottime()
        if self._end is not None:
            self._end.close()
            self._end = None
            self._ended = self._ended or now
        if self._gone is None:
            self._gone = _Gone(now, reason)
        self._gone.reason = reason
        if not self._check.required:
            self._report.known()
        elif now >= max(self._gone.since + self._check.grace, BOOT_S if self._gone.since < BOOT_S else 0.0):
            if not self._gone.told and not await self._going_down():
                self._gone.told = True
                self._report.observe(self._not_running(self._gone))
        else:
            self._report.known()

    def _is_update(self) -> bool:
        """Whether the restart is what an update does: it happens while one is installed, and is no crash."""
        return self._host.installing and ended_in_order(self._exit.status if self._exit is not None else None)

    async def _going_down(self) -> bool:
        """Whether the device shuts down: then nothing that ends is news."""
        if not sysvinit.is_systemd():
            return sysvinit.shutting_down()
        try:
            return await self._host.systemd.shutting_down()
        except UnknownError:
            return False

    # What it is called

    def _how_it_ended(self) -> str:
        return how_it_ended(self._exit.status if self._exit is not None else None)

    def _restarted(self, old: Main, new: Main) -> Observation:
        label = self._check.label
        who = self._host.procfs.describe(new.pid)
        ended = self._ended
        if ended is None:
            lived = "the old one ended while nobody watched"
        else:
            lived = f"the old one had lived {lifetime(ended - old.started)}; {self._how_it_ended()}"
        lines = [f"pid {old.pid} became pid {new.pid}", lived, "the new one:", *_lines(who, new)]
        return self._observation("restarted", f"Process {label} restarted", "restarted", lines)

    def _not_running(self, gone: _Gone) -> Observation:
        away = lifetime(self._host.clock.boottime() - gone.since)
        lines = [f"{gone.reason}, for {away}"]
        if self._main is not None:
            lines.append(f"the last one was pid {self._main.pid}; {self._how_it_ended()}")
        return self._observation(
            "running", f"Process {self._check.label} is not running", "not-running", lines
        )

    def _running(self, main: Main) -> Observation:
        who = self._host.procfs.describe(main.pid) if self._report.is_bad("running") else None
        name = f"Process {self._check.label} is not running"
        return self._observation("running", name, "running", ["it runs", *_lines(who, main)], level=OK)

    def _observation(
        self, key: str, name: str, status: str, lines: list[str], level: str | None = None
    ) -> Observation:
        return Observation(
            level=level or self._check.settings.default_alert_level,
            name=name,
            subject=Subject(self._check.label, "pid", status),
            details=Details("\n".join(lines)),
            key=key,
            event=key == "restarted",
            cleared="It was not restarted again",
            cleared_status="running",
        )


def _lines(who: Process | None, main: Main) -> list[str]:
    return who.lines() if who is not None else [f"pid: {main.pid}"]


CHECK = PidCheck
