"""
A service that is not running.

systemd tells each change; nothing is polled. The ``status`` action of an init script is run at intervals.
Names, levels and texts of the alerts are those of the original add-on.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from pathlib import Path
from typing import ClassVar

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import sysvinit
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.systemd import State, Systemd
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.fields import yes_no
from mender_monitor_py.unitstate import Unit, unit_name, why

# A restart has this long to bring the service back before it counts as not running.
_RESTART_S = 5.0
_ASK_AGAIN_S = 5.0
_SHUTDOWN_S = 60.0
_BOOT_S = 180.0
_SECOND_LOOK_S = 1.0
_TRIES = 3
# Changes that wait to be judged: more than any service can flap in the second that a judgement may take.
_MOST_WAITING = 100

_SCRIPT_NAME = re.compile(r"[A-Za-z0-9_+:@][A-Za-z0-9_.+:@-]*")


def _type(text: str) -> str:
    found = {"systemd": "systemd", "sysv": "sysV"}.get(text.lower())
    if found is None:
        raise ValueError(f"{text[:40]!r} is neither systemd nor sysV")
    return found


_NAME = Field("SERVICE_NAME", str, "the service; the check's name if empty", argument="NAME")
_TYPE = Field("SERVICE_TYPE", _type, "systemd or sysV", default="systemd", argument="systemd|sysV")
_REQUIRED = Field(
    "SERVICE_REQUIRED",
    yes_no,
    "no: fine where systemd does not know the unit, or has it masked",
    default="yes",
)
# systemd.unit(5): what "systemctl mask" made of a unit is not there either.
_NOT_THERE = ("not-found", "masked")


class ServiceCheck(Check):
    """The service SERVICE_NAME is not running: a unit of systemd, or an init script."""

    subsystem = "service"
    summary = "a service that does not run"
    fields = (_NAME, _TYPE, _REQUIRED)
    scripts: ClassVar[Path] = sysvinit.SCRIPTS

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self._name: str = definition.value(_NAME) or definition.check.name
        self._required: bool = definition.value(_REQUIRED)
        self._unit = ""
        if definition.value(_TYPE) == "systemd":
            try:
                self._unit = unit_name(self._name)
            except ValueError as error:
                raise definition.error(_NAME.name, str(error)) from error
        elif not _SCRIPT_NAME.fullmatch(self._name):
            raise definition.error(_NAME.name, f"{self._name[:60]!r} cannot be an init script's name")

    async def run(self, host: Host, report: Report) -> None:
        if self._unit:
            await self._watch_unit(host.systemd, report)
        else:
            await self._poll_script(host, report)

    def observation(self, reason: str, level: str) -> Observation:
        """Not running for *reason*; running when that is empty."""
        return Observation(
            level=level if reason else OK,
            name=f"Service {self._name} not running",
            subject=Subject(self._name, "service", "not-running" if reason else "running"),
            details=Details(reason or "The main process is present again"),
            flapping_name=f"Service {self._name} going up and down",
        )

    async def _watch_unit(self, systemd: Systemd, report: Report) -> None:
        loop = asyncio.get_running_loop()
        states: deque[State] = deque(maxlen=_MOST_WAITING)
        arrived = asyncio.Event()
        patience = Patience()
        unit: Unit | None = None
        judge_at: float | None = None
        told: bool | None = None  # whether it runs, as it was reported last

        def take(state: State) -> None:
            states.append(state)
            arrived.set()

        unwatch = systemd.watch(self._unit, take)
        try:
            while True:
                if await _wait(arrived, states, judge_at):
                    state = states.popleft()
                    if isinstance(state, UnknownError):
                        report.unknown(str(state))
                        continue
                    unit = state
                assert unit is not None
                pause = patience.left(unit, loop.time())
                fine = unit.running or (not self._required and unit.load in _NOT_THERE)
                if told is fine:
                    report.known()  # a unit changes, and is read again, in many ways that are no news
                elif fine:
                    report.observe(self.observation("", OK))
                    told = True
                elif not pause:
                    pause = await self._judge(systemd, unit, report)
                    told = told if pause else False
                judge_at = loop.time() + pause if pause else None
        finally:
            unwatch()

    async def _judge(self, systemd: Systemd, unit: Unit, report: Report) -> float:
        """Report that *unit* does not run, or return the seconds after which to try again."""
        facts = {}
        if not report.is_bad():
            try:
                pause = await _quiet_seconds(systemd)
            except UnknownError:  # on the way down the bus goes too: rather late than wrong
                pause = _ASK_AGAIN_S
            if pause:
                report.known()
                return pause
            facts = await systemd.facts(unit)
        report.observe(self.observation(why(unit, facts), self.settings.default_service_alert_level))
        return 0.0

    async def _poll_script(self, host: Host, report: Report) -> None:
        script = self.scripts / self._name
        failures = 0
        with host.runner.held():
            while True:
                try:
                    reason = await sysvinit.stopped_because(host.runner, script)
                    if reason and not report.is_bad():
                        await asyncio.sleep(self._second_look)
                        reason = await sysvinit.stopped_because(host.runner, script)
                    failures = 0
                    if not reason or report.is_bad() or not await _quiet(host):
                        report.observe(self.observation(reason, self.settings.default_service_alert_level))
                except UnknownError as error:
                    failures += 1
                    if failures >= _TRIES:
                        report.unknown(str(error))
                await report.pause(self.settings.shell_subsystem_interval, looked=not failures)

    @property
    def _second_look(self) -> float:
        """An init script that restarts its service stops it for a moment."""
        return min(self.settings.shell_subsystem_interval, _SECOND_LOOK_S)


class Patience:
    """How long a unit with a job that may bring it back, such as a restart, is waited for."""

    def __init__(self) -> None:
        self._since: float | None = None

    def left(self, unit: Unit, now: float) -> float:
        """Seconds from *now* on; 0: none is left, or there is nothing to wait for."""
        if unit.running or not unit.job:
            self._since = None
            return 0.0
        if self._since is None:
            self._since = now
        return max(self._since + _RESTART_S - now, 0.0)


async def _wait(arrived: asyncio.Event, states: deque[State], until: float | None) -> bool:
    """Until there is a state; False: the moment *until* (of the loop's clock) came first."""
    while not states:
        arrived.clear()
        try:
            async with asyncio.timeout_at(until):
                await arrived.wait()
        except TimeoutError:
            return False
    return True


async def _quiet_seconds(systemd: Systemd) -> float:
    """Seconds for which a service that stopped is no news: the machine shuts down, or still boots."""
    if await systemd.shutting_down():
        return _SHUTDOWN_S
    return await systemd.boot_seconds_left()


async def _quiet(host: Host) -> bool:
    """As :func:`_quiet_seconds`, on devices without systemd too."""
    if sysvinit.is_systemd():
        return bool(await _quiet_seconds(host.systemd))
    return sysvinit.shutting_down() or host.clock.boottime() < _BOOT_S


CHECK = ServiceCheck
