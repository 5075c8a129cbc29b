"""
Open ports by the kernel's socket diagnostics; see sock_diag(7).

The kernel chooses by state, so that established connections cost nothing, and a dump
that has the same bytes as the last one is not looked at again.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

from mender_monitor_py.host.netlinksocket import NetlinkSocket
from mender_monitor_py.netlinkmessages import HEADER, alike

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
MAX_SOCKETS = 10_000  # of a protocol and family: anybody may open more, and each takes memory
TCP_CLOSE, TCP_LISTEN = 7, 10  # <net/tcp_states.h>
TCP, UDP = "tcp", "udp"
# An unconnected UDP socket is in TCP_CLOSE, a connected one in TCP_ESTABLISHED.
_WANTED = {TCP: (socket.IPPROTO_TCP, 1 << TCP_LISTEN), UDP: (socket.IPPROTO_UDP, 1 << TCP_CLOSE)}

_REQUEST = struct.Struct("=BBxxI48x")  # struct inet_diag_req_v2: family, protocol, states
# struct inet_diag_msg behind its header: family, state; source port; source address; interface; inode
_MESSAGE = struct.Struct("=16xBBxx 2sxx 16s16x I 8x 4x4x4x4x I")


class Socket(NamedTuple):
    """A bound socket. *port* and *address* are in network order, as the kernel gives them."""

    family: int
    state: int
    port_bytes: bytes
    address_bytes: bytes
    interface: int
    inode: int

    @property
    def port(self) -> int:
        return int.from_bytes(self.port_bytes, "big")

    @property
    def address(self) -> str:
        if self.family == socket.AF_INET:
            return socket.inet_ntop(socket.AF_INET, self.address_bytes[:4])
        return socket.inet_ntop(socket.AF_INET6, self.address_bytes)

    @property
    def loopback(self) -> bool:
        """Bound to an address of this machine alone, or to the loopback interface (its index is always 1)."""
        if self.interface == 1:
            return True
        if self.family == socket.AF_INET:
            return self.address_bytes[0] == 127
        return self.address_bytes == b"\0" * 15 + b"\1" or (
            self.address_bytes[:12] == b"\0" * 10 + b"\xff\xff" and self.address_bytes[12] == 127
        )


class SockDiag:
    """
    Dumps the bound sockets of the network namespace that it is made in.

    Raises OSError when the kernel has no socket diagnostics (CONFIG_INET_DIAG), or does not let us ask.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_SOCK_DIAG)
        self._last: dict[tuple[str, int], tuple[list[bytes], list[Socket]]] = {}

    def close(self) -> None:
        self._socket.close()

    def sockets(self, protocol: str) -> list[Socket]:
        """
        The sockets of ``tcp`` in LISTEN, or of ``udp`` bound and not connected; IPv4 and IPv6.

        Each at most MAX_SOCKETS; see :meth:`is_cut`. Raises OSError.
        """
        return [*self._dump(protocol, socket.AF_INET), *self._dump(protocol, socket.AF_INET6)]

    def is_cut(self, protocol: str) -> bool:
        """Whether there were more sockets of *protocol* at the last look."""
        last = (found for (one, _), (_, found) in self._last.items() if one == protocol)
        return any(len(found) == MAX_SOCKETS for found in last)

    def _dump(self, protocol: str, family: int) -> list[Socket]:
        key = protocol, family
        number, states = _WANTED[protocol]
        try:
            chunks = self._socket.datagrams(SOCK_DIAG_BY_FAMILY, _REQUEST.pack(family, number, states))
        except OSError as error:
            # UDP diagnostics are a module of their own (udp_diag), IPv6 may be left out of the kernel.
            if family == socket.AF_INET6 and error.errno == errno.ENOENT:
                return []
            raise
        last = self._last.get(key)
        if last is None or last[0] != chunks:
            found = islice(chain.from_iterable(map(parse, chunks)), MAX_SOCKETS)
            last = self._last[key] = chunks, list(found)
        return last[1]


def parse(data: bytes) -> Iterator[Socket]:
    """The sockets in netlink messages."""
    view = memoryview(data)
    while len(view) >= _MESSAGE.size:
        length = HEADER.unpack_from(view)[0]
        size = (length + 3) & ~3
        if not _MESSAGE.size <= size <= len(view):
            return
        many = alike(view, size)
        # Messages of one length are unpacked in one go: that takes a quarter of the time.
        padded = struct.Struct(f"{_MESSAGE.format}{size - _MESSAGE.size}x")
        yield from map(Socket._make, padded.iter_unpack(view[: many * size]))
        view = view[many * size :]
