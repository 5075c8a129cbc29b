"""systemd over D-Bus: the states of units as they change; org.freedesktop.systemd1(5)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.bus import BusError, Signal, SystemBus
from mender_monitor_py.unitstate import Unit, interface, object_path, properties

log = logging.getLogger(__name__)

_SYSTEMD = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = f"{_SYSTEMD}.Manager"
_UNIT = f"{_SYSTEMD}.Unit"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_LOGIN = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")

_CALL_S = 5.0
_ASIDE_S = 1.0
_BOOT_S = 180.0
_TRIES = 3
_LONGEST_PAUSE_S = 30.0

State = Unit | UnknownError


class _Watched:
    """A unit that somebody watches."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.callbacks: list[Callable[[State], None]] = []
        self.unit: Unit | None = None
        self.path = ""
        self.unwatch: Callable[[], None] = _nothing

    def tell(self, state: State) -> None:
        for callback in list(self.callbacks):
            callback(state)


def _nothing() -> None:
    pass


class Systemd:
    """
    The units of the service manager on *bus*.

    Changes arrive as signals. When the bus or systemd comes back, is reloaded or has finished booting, all
    is read again.
    """

    def __init__(self, bus: SystemBus) -> None:
        self._bus = bus
        self._units: dict[str, _Watched] = {}
        self._to_read: set[str] = set()
        self._wanted = asyncio.Event()
        self._subscribed = False
        self._task: asyncio.Task[None] | None = None
        self._undo: list[Callable[[], None]] = []

    def watch(self, name: str, callback: Callable[[State], None]) -> Callable[[], None]:
        """
        Call *callback* with the state of the unit *name*: soon, at each change, and when it is read again.

        An UnknownError instead of a state: systemd does not answer, for some time now. Returns the undo.
        """
        if self._task is None:
            self._start()
        watched = self._units.get(name)
        if watched is None:
            watched = self._units[name] = _Watched(name)
            self._move(watched, object_path(name))
        watched.callbacks.append(callback)
        self._read_again(watched)

        def undo() -> None:
            if callback not in watched.callbacks:
                return
            watched.callbacks.remove(callback)
            if not watched.callbacks:
                watched.unwatch()
                del self._units[name]
                self._to_read.discard(name)

        return undo

    async def shutting_down(self) -> bool:
        """
        Whether the machine shuts down or reboots, or is about to.

        Raises UnknownError when systemd does not answer.
        """
        if await self._manager("SystemState") == "stopping":
            return True
        try:
            return bool(await self._property(*_LOGIN, "PreparingForShutdown", _ASIDE_S))
        except UnknownError:  # not every device has logind
            return False

    async def boot_seconds_left(self) -> float:
        """
        How long services may still take to come up: 0 once the system has booted, or 3 minutes have passed.

        Raises UnknownError when systemd does not answer.
        """
        if await self._manager("SystemState") not in ("initializing", "starting"):
            return 0.0
        # when the user space began: in a container this is later than the kernel
        began = await self._manager("UserspaceTimestampMonotonic")
        return max(float(began) / 1e6 + _BOOT_S - time.monotonic(), 0.0)

    async def main_pid(self, unit: Unit) -> int:
        """The main process of *unit*, a service; 0: it has none. Raises UnknownError."""
        return int(await self._property(_SYSTEMD, unit.path, interface(unit.name), "MainPID", _CALL_S))

    async def facts(self, unit: Unit) -> dict[str, Any]:
        """The properties that tell why *unit* does not run, as far as they can be had in a second."""
        found: dict[str, Any] = {}
        with contextlib.suppress(TimeoutError, UnknownError):
            async with asyncio.timeout(_ASIDE_S):
                for name in properties(unit.name):
                    found[name] = await self._property(
                        _SYSTEMD, unit.path, interface(unit.name), name, _ASIDE_S
                    )
        return found

    async def aclose(self) -> None:
        """End all callbacks."""
        for undo in self._undo:
            undo()
        for watched in self._units.values():
            watched.unwatch()
        self._units.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def _start(self) -> None:
        manager = f"type='signal',sender='{_SYSTEMD}',path='{_PATH}',interface='{_MANAGER}'"
        owner = "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus'"
        self._undo = [
            self._bus.watch(f"{owner},member='NameOwnerChanged',arg0='{_SYSTEMD}'", self._owner_changed),
            self._bus.watch(f"{manager},member='Reloading'", self._reloading),
            self._bus.watch(f"{manager},member='StartupFinished'", lambda signal: self._read_all()),
            self._bus.on_connection(self._connected),
        ]
        self._task = asyncio.get_running_loop().create_task(self._keep_reading(), name="systemd")

    def _connected(self, there: bool) -> None:
        self._subscribed = False
        if there:
            self._read_all()

    def _owner_changed(self, signal: Signal) -> None:
        """systemd leaves the bus and comes back when it is executed anew."""
        self._subscribed = False
        if signal.body[2]:
            self._read_all()

    def _reloading(self, signal: Signal) -> None:
        if signal.body == (False,):
            self._read_all()

    def _read_all(self) -> None:
        self._to_read.update(self._units)
        self._wanted.set()

    def _read_again(self, watched: _Watched) -> None:
        self._to_read.add(watched.name)
        self._wanted.set()

    async def _keep_reading(self) -> None:
        failures = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._read_units()
                failures = 0
            except UnknownError as error:
                failures += 1
                log.debug("systemd cannot be asked: %s", error)
                if failures >= _TRIES:
                    for watched in list(self._units.values()):
                        watched.tell(UnknownError(f"systemd cannot be asked: {error}"))
                pause = min(2.0**failures, _LONGEST_PAUSE_S)
                asyncio.get_running_loop().call_later(pause, self._wanted.set)

    async def _read_units(self) -> None:
        if not self._subscribed and self._to_read:
            # without subscribers systemd sends no signals; AlreadySubscribed: it remembers us
            try:
                await self._call_manager("Subscribe")
            except BusError as error:
                if not error.name.endswith(".AlreadySubscribed"):
                    raise
            self._subscribed = True
        for name in sorted(self._to_read):
            watched = self._units.get(name)
            if watched is not None:
                await self._read(watched)

    async def _read(self, watched: _Watched) -> None:
        unit = await self._read_unit(watched.name)
        if self._units.get(watched.name) is not watched:
            return
        if unit.path and unit.path != watched.path:  # it is an alias
            self._move(watched, unit.path)
            self._read_again(watched)
        else:
            # nothing newer was told meanwhile: replies and signals are handled in the order they came in
            self._to_read.discard(watched.name)
            watched.unit = unit
            watched.tell(unit)

    async def _read_unit(self, name: str) -> Unit:
        """
        Load and read a unit in one call.

        Raises UnknownError when systemd does not answer; that it knows no such unit is an answer.
        """
        try:
            (rows,) = await self._call_manager("ListUnitsByNames", "as", ([name],))
        except BusError as error:
            if error.name.startswith("org.freedesktop.DBus.Error.") and not error.name.endswith(
                "InvalidArgs"
            ):
                raise
            return Unit(name, "error", "inactive", "dead", problem=str(error))
        if not rows:
            return Unit(name, "error", "inactive", "dead", problem="it is not the name of a unit")
        _, _, load, active, sub, _, path, job, _, _ = rows[0]
        return Unit(name, load, active, sub, path, job)

    def _move(self, watched: _Watched, path: str) -> None:
        """Watch the unit's object under *path*."""

        def changed(signal: Signal) -> None:
            self._changed(watched, signal.body[1])

        watched.unwatch()
        watched.path = path
        watched.unwatch = self._bus.watch(
            f"type='signal',sender='{_SYSTEMD}',path='{path}',interface='{_PROPERTIES}',"
            f"member='PropertiesChanged',arg0='{_UNIT}'",
            changed,
        )

    def _changed(self, watched: _Watched, values: dict[str, tuple[str, Any]]) -> None:
        try:
            _, active = values["ActiveState"]
            _, sub = values["SubState"]
            _, (job, _) = values["Job"]
        except KeyError:  # only told that they changed, not to what
            self._read_again(watched)
            return
        unit = watched.unit
        if unit is None or unit.load != "loaded":
            self._read_again(watched)
            return
        watched.unit = replace(unit, active=active, sub=sub, job=job)
        watched.tell(watched.unit)

    async def _manager(self, name: str) -> Any:
        return await self._property(_SYSTEMD, _PATH, _MANAGER, name, _CALL_S)

    async def _property(self, service: str, path: str, kind: str, name: str, limit: float) -> Any:
        ((_, value),) = await self._bus.call(
            service, path, _PROPERTIES, "Get", "ss", (kind, name), timeout=limit
        )
        return value

    async def _call_manager(self, member: str, signature: str = "", body: tuple[Any, ...] = ()) -> Any:
        return await self._bus.call(_SYSTEMD, _PATH, _MANAGER, member, signature, body, timeout=_CALL_S)
