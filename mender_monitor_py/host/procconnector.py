"""
The kernel's process connector: every fork, exec and exit as it happens; <linux/cn_proc.h>.

It works in the initial PID, user and network namespaces alone. Elsewhere the request to listen is ignored
without a word, and events of another namespace may arrive all the same: only the kernel's acknowledgement is
believed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from mender_monitor_py.errors import UnknownError

NONE, FORK, EXEC, EXIT = 0x0, 0x1, 0x2, 0x80000000
ACKNOWLEDGED_S = 2.0
BUFFER = 8 << 20  # a burst of some 8,000 short processes; the default holds 80

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = _CN_VAL_PROC = 1
_LISTEN, _IGNORE = 1, 2
_SO_RCVBUFFORCE = 33
_NLMSG_DONE = 3
# struct nlmsghdr, struct cn_msg (its seq is counted by CPU), then what of struct proc_event is of use
_REQUEST = struct.Struct("=IHHII IIIIHH I")
_EVENT = struct.Struct("=I12x 8xI8x IIQ IIII")
_ANSWERED, _ANSWERED_AT = struct.Struct("=I"), 28  # cn_msg.ack: that of the request, and one more
_READS = 64  # at most, before the others in the event loop have their turn


class Event(NamedTuple):
    """
    One event. *pid* is the process that forks, executes or exits; *thread* its thread.

    FORK: *first* is the child's thread, *second* the child's process. EXIT: *first* is the exit status as
    wait(2) has it, *second* the signal for the parent.
    """

    what: int
    thread: int
    pid: int
    first: int
    second: int


class ProcConnector:
    """
    A subscription. Made with :meth:`open`; :meth:`read` when the descriptor is readable.

    *lost* counts the events that are missing in the kernel's numbers (each CPU counts its own),
    *overruns* how often the buffer was full.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._next: dict[int, int] = {}
        self.lost = 0
        self.overruns = 0

    @classmethod
    async def open(cls) -> ProcConnector:
        """Subscribe. Raises UnknownError with the reason why there will be no events."""
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            connection = socket.socket(socket.AF_NETLINK, kind, _NETLINK_CONNECTOR)
        except OSError as error:
            raise UnknownError(f"no process connector in this kernel: {error.strerror}") from error
        try:
            _enlarge(connection)
            connection.bind((0, _CN_IDX_PROC))
            token = int.from_bytes(os.urandom(4), "big") >> 1
            _control(connection, _LISTEN, token)
            await _acknowledged(connection, token)
        except OSError as error:
            connection.close()
            raise UnknownError(_reason(error)) from error
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Unsubscribe: the kernel counts its listeners, and goes on sending while it counts one."""
        with suppress(OSError):
            _control(self._socket, _IGNORE)
        self._socket.close()

    def read(self) -> list[Event]:
        """What has happened, in order. More may wait. :attr:`lost` grows when something is missing."""
        events: list[Event] = []
        for _ in range(_READS):
            try:
                data, sender = self._socket.recvfrom(4096)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1  # the gap in the numbers tells how many
                continue
            if sender[0] != 0 or len(data) < _EVENT.size:  # anybody may send to a netlink socket
                continue
            _, sequence, what, cpu, _, thread, pid, first, second = _EVENT.unpack_from(data)
            self.lost += (sequence - self._next.get(cpu, sequence)) & 0xFFFFFFFF
            self._next[cpu] = (sequence + 1) & 0xFFFFFFFF
            if what != NONE:  # another listener was acknowledged: that has a number too
                events.append(Event(what, thread, pid, first, second))
        return events


async def _acknowledged(connection: socket.socket, token: int) -> None:
    """
    Wait for the kernel's word that it listens to us: an event of kind NONE, that answers *token*.

    Those of other listeners arrive here too. Raises OSError, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(ACKNOWLEDGED_S):
        while True:
            data = await loop.sock_recv(connection, 4096)
            if len(data) < _EVENT.size:
                continue
            fields = _EVENT.unpack_from(data)
            if fields[2] == NONE and _ANSWERED.unpack_from(data, _ANSWERED_AT)[0] == token + 1:
                if fields[5]:
                    raise OSError(fields[5], os.strerror(fields[5]))
                return


def _enlarge(connection: socket.socket) -> None:
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
    except PermissionError:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


def _control(connection: socket.socket, operation: int, token: int = 0) -> None:
    length = _REQUEST.size
    connection.send(
        _REQUEST.pack(
            *(length, _NLMSG_DONE, 0, 0, 0),
            *(_CN_IDX_PROC, _CN_VAL_PROC, 0, token, 4, 0),
            operation,
        )
    )


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the process connector does not answer: it works in the initial namespaces only"
    if isinstance(error, ConnectionRefusedError):
        return "no process connector in this network namespace"
    return f"the process connector refuses: {error.strerror}"
