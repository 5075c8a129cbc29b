"""Another process's view of a bus, for tests: it sends signals and answers calls."""

from __future__ import annotations

import contextlib
from typing import Any, Self

from jeepney import DBusAddress, HeaderFields, new_method_call, new_signal
from jeepney.io.blocking import DBusConnection, open_dbus_connection

LAMP = DBusAddress("/org/example/Lamp", interface="org.example.Lamp")


class BusPeer:
    """A connection of its own to the bus at *address*; a context manager."""

    def __init__(self, address: str) -> None:
        self.connection: DBusConnection = open_dbus_connection(address, auth_timeout=30)
        self.name: str = self.connection.unique_name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.connection.close()

    def ask_bus(self, member: str, signature: str = "", *body: Any) -> Any:
        """The first value of the bus's reply."""
        bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
        reply = self.connection.send_and_get_reply(
            new_method_call(bus, member, signature or None, body), timeout=30
        )
        assert reply.header.message_type.name == "method_return", reply.body
        return reply.body[0] if reply.body else None

    def own(self, name: str) -> None:
        assert self.ask_bus("RequestName", "su", name, 4) == 1

    def signal(
        self, member: str = "Switched", signature: str = "", *body: Any, to: str = "", address: Any = LAMP
    ) -> None:
        """To all, or to the one connection *to*, whether it asked for it or not."""
        message = new_signal(address, member, signature or None, body)
        if to:
            message.header.fields[HeaderFields.destination] = to
        self.connection.send_message(message)
