"""
All messages on the bus that match some rules, whoever they are for: what ``dbus-monitor`` sees.

A connection for each set of rules, although one with all rules united would do: so the bus itself applies
the rules, owners of well-known names included, and wakes a check for nothing that is not its own. It costs
a descriptor and a few KiB a check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from mender_monitor_py.busformat import Header, read_header
from mender_monitor_py.host.bus import SystemBus
from mender_monitor_py.host.busconnection import BUS, BUS_PATH, BusLostError, decode

_MONITORING = "org.freedesktop.DBus.Monitoring"
# twice what the text of a message may be: the rest of it is not looked at
_KEEP = 131_072
_SETUP_S = 5.0
_CONNECTION_NEWS = ("NameOwnerChanged", "NameAcquired", "NameLost")
# What tells of a new connection waits, so that it is known whether the connection is one of ours.
_SETTLE_S = 0.25
_MOST_SETTLING = 1000


class BusMonitor:
    """
    Hands the messages that *rules* select (none: all) to *on_message*, with their headers.

    Of a longer message only the first 128 KiB arrive. What this process sends and gets is left out.
    """

    def __init__(
        self, bus: SystemBus, rules: Sequence[str], on_message: Callable[[bytes, Header], None]
    ) -> None:
        self._bus = bus
        self._rules = [rule for rule in rules if rule]
        self._on_message = on_message
        self._settling = 0
        self._connected = False

    async def run(self, on_state: Callable[[str], None]) -> None:
        """
        Monitor until cancelled, over restarts of the bus.

        *on_state* is told the reason when there is no connection, and an empty one when it monitors. Raises
        BusError when the bus does not allow it.
        """
        door = self._bus.door()
        while True:
            connection = await door.enter(
                self._take, lambda error: on_state(str(error)), keep=_KEEP, descriptors=True
            )
            self._bus.connections.add(connection)
            try:
                await connection.call(
                    BUS, BUS_PATH, _MONITORING, "BecomeMonitor", "asu", (self._rules, 0), timeout=_SETUP_S
                )
                self._connected = True
                on_state("")
                reason = await connection.ended()
            except BusLostError as error:
                reason = str(error)
            finally:
                self._connected = False
                connection.close()
                self._bus.connections.discard(connection)
            on_state(reason)

    def _take(self, raw: bytes) -> None:
        try:
            header = read_header(raw)
        except ValueError:
            return
        if BUS not in (header.sender, header.destination):
            self._pass_on(raw, header)
        elif self._settling < _MOST_SETTLING:
            self._settling += 1
            asyncio.get_running_loop().call_later(_SETTLE_S, self._settled, raw, header)
        else:
            self._pass_on(raw, header)

    def _settled(self, raw: bytes, header: Header) -> None:
        self._settling -= 1
        if self._connected:
            self._pass_on(raw, header)

    def _pass_on(self, raw: bytes, header: Header) -> None:
        if not self._is_own(raw, header):
            self._on_message(raw, header)

    def _is_own(self, raw: bytes, header: Header) -> bool:
        names = {connection.name for connection in self._bus.connections}
        if header.sender in names or header.destination in names:
            return True
        if header.sender != BUS or header.member not in _CONNECTION_NEWS:
            return False
        try:
            return decode(raw)[0] in names
        except (ValueError, IndexError):
            return False
