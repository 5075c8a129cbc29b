"""
Netlink sockets: dumps and multicast messages; see netlink(7).

Plain sockets; pyroute2 takes many times the CPU: see docs/decisions.md.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from mender_monitor_py.netlinkmessages import HEADER, NLMSG_DONE, NLMSG_ERROR, Message, messages, part

_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_BUFFER = 1 << 16  # a message for a socket is at most 32 KiB
_PATIENCE_S = 5.0
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1  # <linux/socket.h>, <linux/netlink.h>
_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>


class NetlinkSocket:
    """Asks the kernel, in the network namespace that it is made in. Raises OSError."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.bind((0, 0))
        self._sequence = 1

    def close(self) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """All messages that answer the dump request *kind*. Raises OSError."""
        return [
            message
            for data in self.datagrams(kind, body)
            for message in messages(data)
            if message.kind not in (NLMSG_DONE, NLMSG_ERROR)
        ]

    def datagrams(self, kind: int, body: bytes) -> list[bytes]:
        """
        The same as the kernel sends it, its last message NLMSG_DONE: two answers that say the same are equal.

        The request is made anew when the table changed under it.
        """
        for _ in range(3):
            header = HEADER.pack(HEADER.size + len(body), kind, _REQUEST_DUMP, self._sequence, 0)
            self._socket.send(header + body)
            found, interrupted = self._receive()
            if not interrupted:
                break
        return found

    def _receive(self) -> tuple[list[bytes], bool]:
        """One answer, and whether it was interrupted. Its end may be in a datagram of its own, or not."""
        found: list[bytes] = []
        interrupted = False
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except OSError:
                self._sequence += 1  # what may still come is no part of the next answer
                raise
            one = part(data)
            if one.sequence != self._sequence:
                continue  # the rest of an answer that was given up
            if one.error:
                raise OSError(one.error, f"netlink: {os.strerror(one.error)}")
            interrupted |= one.interrupted
            found.append(data)
            if one.error is not None:
                return found, interrupted


class EventSocket:
    """
    What the kernel tells the multicast *groups*, a bit mask, of *protocol*; :meth:`join` adds others.

    *received* gets each datagram in :meth:`read`, *lost* is called there when the kernel had to drop some.
    Raises OSError.
    """

    def __init__(
        self, protocol: int, groups: int, received: Callable[[bytes], None], lost: Callable[[], None]
    ) -> None:
        self._received = received
        self._lost = lost
        self._loop: asyncio.AbstractEventLoop | None = None
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        try:
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise

    def join(self, group: int) -> None:
        """Be told of the multicast group with this number, too: a mask has but 32. Raises OSError."""
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def follow(self) -> None:
        """Read what comes as soon as it comes, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self.read)

    def hold(self, size: int) -> None:
        """Let the kernel hold *size* bytes of messages until they are read, as far as we may."""
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, size)
            except PermissionError:  # beyond net.core.rmem_max it takes CAP_NET_ADMIN
                return

    def close(self) -> None:
        """No call after this."""
        if self._socket.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def read(self) -> None:
        """Take what there is."""
        while self._socket.fileno() >= 0:
            try:
                data, sender = self._socket.recvfrom(_BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost()
                continue
            # Anybody may send to a netlink socket; the kernel's port is 0.
            if sender[0] == 0:
                self._received(data)
