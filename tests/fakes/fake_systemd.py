"""A stand-in for systemd's manager on a private bus: units, jobs, subscriptions and bad days."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.io.asyncio import DBusConnection, open_dbus_connection

from mender_monitor_py.unitstate import object_path

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = DBusAddress(PATH, interface=f"{NAME}.Manager")
BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")


@dataclass
class FakeUnit:
    """What systemd would hold of a unit."""

    name: str
    active: str = "active"
    sub: str = "running"
    load: str = "loaded"
    job: int = 0
    facts: dict[str, tuple[str, Any]] = field(default_factory=dict)


class FakeSystemd:
    """
    An async context manager: owns systemd's name on the bus at *address*.

    Like systemd it sends signals to nobody who has not subscribed, and forgets subscriptions when it is
    executed anew. *mute* makes it take calls and not answer.
    """

    def __init__(self, address: str) -> None:
        self.units: dict[str, FakeUnit] = {}
        self.aliases: dict[str, str] = {}
        self.system_state = "running"
        self.preparing_for_shutdown = False
        self.userspace_began = 0
        self.mute = False
        self.subscribers: set[str] = set()
        self.calls: list[str] = []
        self._address = address
        self._connection: DBusConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._called = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.subscribers.clear()
        self._connection = await open_dbus_connection(self._address)
        for name in (NAME, "org.freedesktop.login1"):
            await self._connection.send(new_method_call(BUS, "RequestName", "su", (name, 4)))
        self._task = asyncio.get_running_loop().create_task(self._serve(self._connection))

    async def stop(self) -> None:
        """Leave the bus, as when it is executed anew (or has crashed)."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def add(self, name: str, **values: Any) -> FakeUnit:
        unit = self.units[name] = FakeUnit(name, **values)
        return unit

    async def change(self, name: str, active: str, sub: str = "any", job: int = 0) -> None:
        """A unit's state changes, and whoever subscribed is told."""
        unit = self.units[name]
        unit.active, unit.sub, unit.job = active, sub, job
        if self.subscribers:
            await self._emit(
                DBusAddress(object_path(name), interface="org.freedesktop.DBus.Properties"),
                "PropertiesChanged",
                "sa{sv}as",
                (f"{NAME}.Unit", self.unit_properties(unit), []),
            )

    async def tell(self, member: str, signature: str, *body: Any) -> None:
        """A signal of the manager."""
        if self.subscribers:
            await self._emit(MANAGER, member, signature, body)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds after a call. Raises TimeoutError."""
        async with asyncio.timeout(60):
            while not condition():
                self._called.clear()
                await self._called.wait()

    async def _emit(self, source: DBusAddress, member: str, signature: str, body: tuple[Any, ...]) -> None:
        assert self._connection is not None
        await self._connection.send(new_signal(source, member, signature, body))

    async def _serve(self, connection: DBusConnection) -> None:
        while True:
            message = await connection.receive()
            if message.header.message_type is not MessageType.method_call:
                continue
            member = message.header.fields[HeaderFields.member]
            self.calls.append(member)
            self._called.set()
            if not self.mute:
                await connection.send(self._answer(message, member))

    def _answer(self, message: Message, member: str) -> Message:
        if member == "Subscribe":
            sender = message.header.fields[HeaderFields.sender]
            if sender in self.subscribers:
                return new_error(
                    message, f"{NAME}.AlreadySubscribed", "s", ("Client is already subscribed.",)
                )
            self.subscribers.add(sender)
            return new_method_return(message)
        if member == "ListUnitsByNames":
            return new_method_return(
                message, "a(ssssssouso)", ([self._row(name) for name in message.body[0]],)
            )
        if member == "Get":
            path = message.header.fields[HeaderFields.path]
            value = self._property(path, message.body[1])
            if value is not None:
                return new_method_return(message, "v", (value,))
        return new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "s", (f"no {member}",))

    def _row(self, asked: str) -> tuple[Any, ...]:
        name = self.aliases.get(asked, asked)
        unit = self.units.get(name) or FakeUnit(name, "inactive", "dead", "not-found")
        job = f"{PATH}/job/{unit.job}" if unit.job else "/"
        kind = "restart" if unit.job else ""
        return (name, "", unit.load, unit.active, unit.sub, "", object_path(name), unit.job, kind, job)

    def _property(self, path: str, name: str) -> tuple[str, Any] | None:
        if name == "PreparingForShutdown":
            return "b", self.preparing_for_shutdown
        if name == "SystemState":
            return "s", self.system_state
        if name == "UserspaceTimestampMonotonic":
            return "t", self.userspace_began
        unit = next((unit for unit in self.units.values() if object_path(unit.name) == path), None)
        return unit.facts.get(name) if unit else None

    @staticmethod
    def unit_properties(unit: FakeUnit) -> dict[str, tuple[str, Any]]:
        job = f"{PATH}/job/{unit.job}" if unit.job else "/"
        return {
            "ActiveState": ("s", unit.active),
            "SubState": ("s", unit.sub),
            "Job": ("(uo)", (unit.job, job)),
        }
