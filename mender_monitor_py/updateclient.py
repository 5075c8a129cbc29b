"""
The token from Mender's update client, over D-Bus: ``io.mender.Authentication1``.

Two generations speak it. The older (Go, 2.5 to 3.5) answers with the real server or a proxy, the newer (C++,
from 4.0) with a proxy that moves to another port with each fetch; it dies of a call without an interface
header and answers introspection with nothing. So: explicit calls, and the newest pair for each request.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, cast

from jeepney import (
    DBusAddress,
    DBusErrorResponse,
    HeaderFields,
    MatchRule,
    Message,
    MessageFlag,
    message_bus,
    new_method_call,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import unwrap_msg

from mender_monitor_py.credentials import Grant
from mender_monitor_py.protocol import NotSent, printable

NAME = "io.mender.AuthenticationManager"
PATH = "/io/mender/AuthenticationManager"
INTERFACE = "io.mender.Authentication1"

FETCH_TIMEOUT = 60.0  # what the update client's own programs wait
_CALL_TIMEOUT = 10.0
_MOVES = 3  # how often the pair may change under one request
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_NOBODY = {
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
}


class UpdateClient:
    """Credentials of the running update client. One bus connection, made anew when it breaks."""

    def __init__(self, fetch_timeout: float = FETCH_TIMEOUT) -> None:
        self._fetch_timeout = fetch_timeout
        self._connection: DBusConnection | None = None
        self._signals: deque[Message] = deque(maxlen=1)
        self._moves = 0

    def current(self) -> Grant:
        self._moves = 0
        return self._pair() or self._fetched()

    def renewed(self) -> Grant:
        return self._fetched()

    def moved(self, failed: Grant) -> Grant | None:
        """Each fetch, by whichever program, closes the old proxy: look where it is now."""
        self._moves += 1
        pair = self._pair()
        return pair if pair is not None and pair != failed and self._moves <= _MOVES else None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _pair(self) -> Grant | None:
        """What the client holds. None: nothing, ask for it."""
        match self._call("GetJwtToken", "ss"):
            case (str(token), str(server)) if token and server:
                if not _TOKEN.fullmatch(token):
                    raise NotSent(
                        "the update client's token is not one: it has other than visible ASCII", "token"
                    )
                return Grant(token, server)
        return None

    def _fetched(self) -> Grant:
        """Have it fetched, and wait for the end of that: the signal comes, good or bad."""
        # The signal was subscribed to as the connection was made.
        if self._call("FetchJwtToken", "b") != (True,):
            raise NotSent("the update client cannot ask for a token: see its log", "token")
        self._signals.clear()  # what came before that answer is of an earlier fetch
        try:
            self._connected().recv_until_filtered(self._signals, timeout=self._fetch_timeout)
        except TimeoutError:
            raise NotSent(
                f"the update client got no token within {self._fetch_timeout:g} s", "token"
            ) from None
        except OSError as error:
            self.close()
            raise NotSent(f"the D-Bus connection broke: {error}", "token") from error
        pair = self._pair()
        if pair is None:
            raise NotSent(
                "the update client has no token: the device is not accepted, or the server not reached",
                "token",
            )
        return pair

    def _call(self, member: str, signature: str) -> tuple[Any, ...]:
        # The header always names the interface: the newer client aborts without.
        message = new_method_call(DBusAddress(PATH, bus_name=NAME, interface=INTERFACE), member)
        message.header.flags |= MessageFlag.no_auto_start
        for attempt in (1, 2):
            try:
                reply = self._connected().send_and_get_reply(message, timeout=_CALL_TIMEOUT)
                break
            except TimeoutError:
                self.close()
                raise NotSent("the update client does not answer on D-Bus", "token") from None
            except OSError as error:  # the bus was restarted
                self.close()
                if attempt == 2:
                    raise NotSent(f"the D-Bus system bus cannot be reached: {error}", "token") from error
        try:
            body = cast("tuple[Any, ...]", unwrap_msg(reply))
        except DBusErrorResponse as error:
            if error.name in _NOBODY:
                raise NotSent(
                    "the update client is not running: nobody has its D-Bus name", "token"
                ) from None
            raise NotSent(
                f"the update client refused {member}: {printable(str(error.name))}", "token"
            ) from None
        if reply.header.fields.get(HeaderFields.signature, "") != signature:
            raise NotSent(f"the update client answered {member} with something else", "token")
        return body

    def _connected(self) -> DBusConnection:
        if self._connection is not None:
            return self._connection
        try:
            connection = open_dbus_connection("SYSTEM", auth_timeout=_CALL_TIMEOUT)
        except (OSError, ValueError, RuntimeError) as error:
            raise NotSent(f"the D-Bus system bus cannot be reached: {error}", "token") from error
        rule = MatchRule(
            type="signal", sender=NAME, interface=INTERFACE, member="JwtTokenStateChange", path=PATH
        )
        try:
            unwrap_msg(connection.send_and_get_reply(message_bus.AddMatch(rule), timeout=_CALL_TIMEOUT))
        except (OSError, DBusErrorResponse) as error:
            connection.close()
            raise NotSent(f"the D-Bus system bus refuses a subscription: {error}", "token") from error
        # The bus has checked the sender: here it is a unique name.
        here = MatchRule(type="signal", interface=INTERFACE, member="JwtTokenStateChange", path=PATH)
        connection.filter(here, queue=self._signals)
        self._connection = connection
        return connection
