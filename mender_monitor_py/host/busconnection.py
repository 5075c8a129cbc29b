"""One connection to a D-Bus bus. jeepney knows the protocol, asyncio waits, the lines between are here."""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from jeepney import DBusAddress, Message, MessageFlag, new_method_call
from jeepney.auth import BEGIN, Authenticator
from jeepney.bus import get_connectable_addresses

from mender_monitor_py.busformat import ERROR, METHOD_RETURN, Header, read_header
from mender_monitor_py.busmessage import Frames
from mender_monitor_py.errors import UnknownError

BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"

_SETUP_S = 5.0
_CHUNK = 65_536
_UNSENT = 1_048_576
# A message carries at most 16 descriptors on a system bus, and at most 253 on a socket (SCM_MAX_FD).
_FDS = socket.CMSG_SPACE(253 * 4)
# What jeepney raises for bytes that are no message; asserts are part of its parser.
_NOT_A_MESSAGE = (
    ArithmeticError, AssertionError, LookupError, RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip


class BusError(UnknownError):
    """A call was answered with an error; *name* is D-Bus's name for it."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(f"{message or 'no reason given'} ({name})")


class BusLostError(UnknownError):
    """There is no connection to the bus."""


Body = tuple[Any, ...]
Answer = Callable[["Body | UnknownError"], None]


class Connection:
    """
    A connection that has its name: calls, and the messages that arrive.

    *on_message* is given each message that does not answer a call of ours, as it came.
    """

    def __init__(self, sock: socket.socket, on_message: Callable[[bytes], None], keep: int) -> None:
        self.name = ""
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = self._loop.create_future()
        self._socket = sock
        self._on_message = on_message
        self._frames = Frames(keep)
        self._serials = itertools.count(1)
        self._waiting: dict[int, Answer] = {}
        self._unsent = bytearray()

    @classmethod
    async def open(
        cls, address: str, on_message: Callable[[bytes], None], *, keep: int, descriptors: bool = False
    ) -> Connection:
        """
        Connect, authenticate and get a name.

        Messages are kept up to *keep* bytes. *descriptors*: take messages that carry file descriptors too;
        these are closed. Raises BusLostError with the reason.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection = None
        try:
            async with asyncio.timeout(_SETUP_S):
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, socket_path(address))
                await _authenticate(sock, descriptors)
                connection = cls(sock, on_message, keep)
                connection._loop.add_reader(sock, connection._readable)
                (connection.name,) = await connection.call(BUS, BUS_PATH, BUS, "Hello", timeout=_SETUP_S)
        except (OSError, ValueError, UnknownError) as error:  # a TimeoutError is an OSError
            reason = str(error) or "it does not answer"
            raise BusLostError(f"the bus cannot be used at {address}: {reason}") from error
        finally:
            if connection is None:
                sock.close()
            elif not connection.name:
                connection.close()
        return connection

    def request(
        self, address: tuple[str, str, str], member: str, signature: str, body: Body, answer: Answer
    ) -> int:
        """
        Send a call to *address* (destination, path, interface); its serial.

        *answer* gets the reply's body or an error the moment it arrives, in order with all other messages.
        Raises BusLostError.
        """
        if self._lost.done():
            raise BusLostError(self._lost.result())
        destination, path, interface = address
        message = new_method_call(DBusAddress(path, destination, interface), member, signature or None, body)
        # to look must not start what does not run
        message.header.flags |= MessageFlag.no_auto_start
        serial = next(self._serials)
        self._waiting[serial] = answer
        self._send(message.serialise(serial=serial))
        return serial

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Body = (),
        *,
        timeout: float,  # noqa: ASYNC109 - says what was slow
    ) -> Body:
        """The reply to a call. Raises BusError, BusLostError, or UnknownError after *timeout* seconds."""
        future: asyncio.Future[Body] = self._loop.create_future()

        def answer(reply: Body | UnknownError) -> None:
            if future.done():
                return
            if isinstance(reply, UnknownError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        serial = self.request((destination, path, interface), member, signature, body, answer)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            raise UnknownError(f"{destination} did not answer {member} within {timeout:g} s") from error
        finally:
            self._waiting.pop(serial, None)

    async def ended(self) -> str:
        """Waits until the connection has ended; the reason."""
        return await asyncio.shield(self._lost)

    def close(self, reason: str = "the connection was closed") -> None:
        """End the connection; what waits for an answer gets *reason*."""
        if self._lost.done():
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._lost.set_result(reason)
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer(BusLostError(reason))

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_CHUNK, _FDS, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"the bus is gone: {error}")
            return
        _close_descriptors(ancillary)
        if not data:
            self.close("the bus closed the connection")
            return
        try:
            frames = self._frames.feed(data)
        except ValueError as error:
            self.close(str(error))
            return
        for raw in frames:
            if not self._lost.done():
                self._take(raw)

    def _take(self, raw: bytes) -> None:
        if self._waiting and raw[1] in (METHOD_RETURN, ERROR):
            try:
                header = read_header(raw)
            except ValueError:
                return
            answer = self._waiting.pop(header.reply_serial, None)
            if answer is not None:
                answer(_answer(raw, header))
                return
        if self.name:  # else it is the news of our own name
            self._on_message(raw)

    def _send(self, data: bytes) -> None:
        self._unsent += data
        if len(self._unsent) > _UNSENT:
            self.close("the bus does not take what is sent to it")
        else:
            self._writable()

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
            del self._unsent[:sent]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.close(f"the bus is gone: {error}")
            return
        if self._unsent:
            self._loop.add_writer(self._socket, self._writable)
        else:
            self._loop.remove_writer(self._socket)


def socket_path(address: str) -> str:
    """
    The socket of a bus address such as ``unix:path=/run/dbus/system_bus_socket``; NUL first: abstract.

    Raises BusLostError when the address has none.
    """
    try:
        path: str = next(get_connectable_addresses(address))
    except (RuntimeError, ValueError) as error:
        raise BusLostError(f"not an address of a bus on this machine: {address!r}") from error
    return path


def decode(raw: bytes) -> Body:
    """The arguments of a message. Raises ValueError when they cannot be read."""
    try:
        body: Body = Message.from_buffer(raw).body
    except _NOT_A_MESSAGE as error:
        raise ValueError(f"not a D-Bus message: {error!r}") from error
    return body


def _answer(raw: bytes, header: Header) -> Body | UnknownError:
    try:
        body = decode(raw)
    except ValueError as error:
        return UnknownError(str(error))
    if header.type == ERROR:
        return BusError(header.error_name, str(body[0]) if body else "")
    return body


async def _authenticate(sock: socket.socket, descriptors: bool) -> None:
    loop = asyncio.get_running_loop()
    authenticator = Authenticator(enable_fds=descriptors)
    for line in authenticator:
        if line:
            await loop.sock_sendall(sock, line)
        data = await loop.sock_recv(sock, _CHUNK)
        if not data:
            raise BusLostError("it refuses us")
        authenticator.feed(data)
    # the iteration ends with the last answer, before BEGIN was sent
    await loop.sock_sendall(sock, BEGIN)


def _close_descriptors(ancillary: list[tuple[int, int, bytes]]) -> None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            for descriptor in array.array("i", data[: len(data) - len(data) % 4]):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
