"""The D-Bus system bus: calls and signals on one connection, over the restarts of the bus."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mender_monitor_py.busformat import SIGNAL, Header, read_header
from mender_monitor_py.busmessage import Signal as Signal
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.busconnection import BUS, BUS_PATH, Body, BusLostError, Connection, decode
from mender_monitor_py.host.busconnection import BusError as BusError
from mender_monitor_py.host.busdoor import Door, system_bus_address
from mender_monitor_py.host.inotify import Inotify
from mender_monitor_py.matchrule import MatchRule, is_unique, parse

log = logging.getLogger(__name__)

_KEEP = 4_194_304
_BUS_CALLS = (BUS, BUS_PATH, BUS)


@dataclass(eq=False, slots=True)
class _Watcher:
    rule: MatchRule
    callback: Callable[[Signal], None]


class _Owner:
    """Who owns a well-known name that rules have as their sender."""

    def __init__(self) -> None:
        self.users = 0
        self.name: str | None = None


class SystemBus:
    """
    Calls, signals and news of the connection itself. It is made when first used, and made again for ever.

    *address*: None takes ``DBUS_SYSTEM_BUS_ADDRESS``, else the system bus's usual one.
    """

    def __init__(self, inotify: Inotify | None = None, address: str | None = None) -> None:
        self.address = address or system_bus_address()
        #: Every connection of this process to the bus: what they send and get is not news.
        self.connections: set[Connection] = set()
        self._inotify = inotify
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._ready = asyncio.Event()
        self._failure = "it was not tried yet"
        self._watchers: list[_Watcher] = []
        self._rules: Counter[str] = Counter()
        self._owners: dict[str, _Owner] = {}
        self._listeners: list[Callable[[bool], None]] = []

    def door(self) -> Door:
        """The way to a connection of one's own to the same bus."""
        return Door(self.address, self._inotify)

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Body = (),
        *,
        timeout: float = 5.0,  # noqa: ASYNC109 - says what was slow
    ) -> Body:
        """
        The body of the reply; *timeout* seconds are for all of it, a connection that is on its way included.

        Services are not started by a call. Raises BusError for an error reply, BusLostError without a bus,
        else UnknownError.
        """
        self._start()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._ready.wait()
        except TimeoutError as error:
            raise BusLostError(self._failure) from error
        assert self._connection is not None
        left = max(deadline - loop.time(), 0.001)
        return await self._connection.call(
            destination, path, interface, member, signature, body, timeout=left
        )

    def watch(self, rule: str, callback: Callable[[Signal], None]) -> Callable[[], None]:
        """
        Call *callback* for the signals that *rule* selects, from now on; returns the undo.

        A call that is made afterwards is answered after the rule took effect. A well-known ``sender`` is held
        against the name's owner, so that nobody can speak for another. Raises ValueError for a bad rule.
        """
        self._start()
        watcher = _Watcher(parse(rule), callback)
        self._watchers.append(watcher)
        self._add_rule(str(watcher.rule))
        sender = _well_known_sender(watcher.rule)
        if sender:
            self._add_owner(sender)

        def undo() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
                self._remove_rule(str(watcher.rule))
                if sender:
                    self._remove_owner(sender)

        return undo

    def on_connection(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """
        Call *callback* with True when the connection is there (soon, if it is now), with False when it goes.

        Everything that was known by signals is to be read again after True. Returns the undo.
        """
        self._start()
        self._listeners.append(callback)
        if self._ready.is_set():
            self._tell_one(callback, True)

        def undo() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return undo

    async def aclose(self) -> None:
        """End the connection and all callbacks."""
        self._watchers.clear()
        self._listeners.clear()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._stay_connected(), name="system bus")

    async def _stay_connected(self) -> None:
        door = self.door()
        while True:
            connection = await door.enter(self._on_message, self._failed, keep=_KEEP)
            try:
                await self._set_up(connection)
                reason = await connection.ended()
                log.info("%s; it is connected again when it is back", reason)
                self._failure = reason
            except UnknownError as error:
                self._failed(BusLostError(str(error)))
            finally:
                connection.close()
                self.connections.discard(connection)
                self._connection = None
                was_ready = self._ready.is_set()
                self._ready.clear()
                for owner in self._owners.values():
                    owner.name = None
            if was_ready:
                self._tell(False)

    def _failed(self, error: BusLostError) -> None:
        if str(error) != self._failure:
            self._failure = str(error)
            log.info("%s", error)

    async def _set_up(self, connection: Connection) -> None:
        self._connection = connection
        self.connections.add(connection)
        for rule in self._rules:
            self._request("AddMatch", rule)
        for name in self._owners:
            self._ask_owner(name)
        # answers come in order: with this one all of the above are there
        await connection.call(*_BUS_CALLS, "GetId", timeout=5.0)
        self._ready.set()
        self._tell(True)

    def _tell(self, connected: bool) -> None:
        for listener in self._listeners:
            self._tell_one(listener, connected)

    def _tell_one(self, listener: Callable[[bool], None], connected: bool) -> None:
        def tell() -> None:
            if listener in self._listeners:
                listener(connected)

        asyncio.get_running_loop().call_soon(tell)

    # rules

    def _add_rule(self, rule: str) -> None:
        self._rules[rule] += 1
        if self._rules[rule] == 1:
            self._request("AddMatch", rule)

    def _remove_rule(self, rule: str) -> None:
        self._rules[rule] -= 1
        if not self._rules[rule]:
            del self._rules[rule]
            self._request("RemoveMatch", rule)

    def _request(self, member: str, rule: str) -> None:
        def answer(reply: Body | UnknownError) -> None:
            if isinstance(reply, BusError):
                log.error("the bus refuses %s of %s: %s", member, rule, reply)

        if self._connection is not None:
            with contextlib.suppress(BusLostError):
                self._connection.request(_BUS_CALLS, member, "s", (rule,), answer)

    # owners of names

    def _add_owner(self, name: str) -> None:
        owner = self._owners.setdefault(name, _Owner())
        owner.users += 1
        if owner.users == 1:
            self._add_rule(_owner_rule(name))
            self._ask_owner(name)

    def _remove_owner(self, name: str) -> None:
        owner = self._owners[name]
        owner.users -= 1
        if not owner.users:
            del self._owners[name]
            self._remove_rule(_owner_rule(name))

    def _ask_owner(self, name: str) -> None:
        owner = self._owners[name]

        def answer(reply: Body | UnknownError) -> None:
            # an error: nobody owns it
            owner.name = None if isinstance(reply, UnknownError) else reply[0]

        if self._connection is not None:
            with contextlib.suppress(BusLostError):
                self._connection.request(_BUS_CALLS, "GetNameOwner", "s", (name,), answer)

    # signals

    def _on_message(self, raw: bytes) -> None:
        if raw[1] != SIGNAL:
            return
        try:
            header = read_header(raw)
            signal = _signal(header, ())
            watchers = [
                one for one in self._watchers if one.rule.matches_header(signal, self._owner(one.rule))
            ]
            about_owner = (header.sender, header.member, header.signature) == (BUS, "NameOwnerChanged", "sss")
            if not watchers and not about_owner:
                return  # not worth decoding: any process may send us anything
            signal = _signal(header, decode(raw))
        except ValueError as error:
            log.debug("a signal is passed over: %s", error)
            return
        if about_owner:
            name, _, new = signal.body
            if name in self._owners:
                self._owners[name].name = new or None
        for watcher in watchers:
            if watcher.rule.matches_arguments(signal):
                # a handle of its own: a callback that raises does not keep the others from their signals
                asyncio.get_running_loop().call_soon(self._deliver, watcher, signal)

    def _deliver(self, watcher: _Watcher, signal: Signal) -> None:
        if watcher in self._watchers:
            watcher.callback(signal)

    def _owner(self, rule: MatchRule) -> str | None:
        owner = self._owners.get(rule.get("sender") or "")
        return owner.name if owner else None


def _well_known_sender(rule: MatchRule) -> str:
    sender = rule.get("sender") or ""
    return "" if is_unique(sender) or sender == BUS else sender


def _owner_rule(name: str) -> str:
    rule = f"type='signal',sender='{BUS}',path='{BUS_PATH}',interface='{BUS}',member='NameOwnerChanged'"
    return str(parse(f"{rule},arg0='{name}'"))


def _signal(header: Header, body: Body) -> Signal:
    return Signal(header.sender, header.path, header.interface, header.member, header.signature, body)
