"""
Open ports by the kernel's socket diagnostics; see sock_diag(7).

A plain netlink socket. The kernel chooses by state, so that established connections cost nothing, and a dump
that has the same bytes as the last one is not looked at again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN = 1, 7, 10  # <net/tcp_states.h>
TCP, UDP = "tcp", "udp"
# An unconnected UDP socket is in TCP_CLOSE, a connected one in TCP_ESTABLISHED.
_WANTED = {TCP: (socket.IPPROTO_TCP, 1 << TCP_LISTEN), UDP: (socket.IPPROTO_UDP, 1 << TCP_CLOSE)}

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=IHHIIBBBBI48x")
# struct inet_diag_msg behind its header: family, state; source port; source address; interface; inode
_MESSAGE = struct.Struct("=16xBBxx 2sxx 16s16x I 8x 4x4x4x4x I")
_RESULT = struct.Struct("=i")
_BUFFER = 1 << 16  # a dump comes in parts of at most 32 KiB


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
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
        )
        self._socket.bind((0, 0))
        self._last: dict[tuple[str, int], tuple[list[bytes], list[Socket]]] = {}

    def close(self) -> None:
        self._socket.close()

    def sockets(self, protocol: str) -> list[Socket]:
        """
        All sockets of ``tcp`` in LISTEN, or of ``udp`` bound and not connected; IPv4 and IPv6.

        Raises OSError.
        """
        return [*self._dump(protocol, socket.AF_INET), *self._dump(protocol, socket.AF_INET6)]

    def _dump(self, protocol: str, family: int) -> list[Socket]:
        key = protocol, family
        number, states = _WANTED[protocol]
        try:
            chunks = self._ask(family, number, states)
        except OSError as error:
            # UDP diagnostics are a module of their own (udp_diag), IPv6 may be left out of the kernel.
            if family == socket.AF_INET6 and error.errno == errno.ENOENT:
                return []
            raise
        last = self._last.get(key)
        if last is None or last[0] != chunks:
            last = self._last[key] = chunks, [found for chunk in chunks for found in parse(chunk)]
        return last[1]

    def _ask(self, family: int, protocol: int, states: int) -> list[bytes]:
        for _ in range(3):
            self._socket.send(
                _REQUEST.pack(
                    _REQUEST.size, SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0, family, protocol, 0, 0, states
                )
            )
            chunks, interrupted = self._receive()
            if not interrupted:
                break
        return chunks

    def _receive(self) -> tuple[list[bytes], bool]:
        """The answer to a dump request, and whether the table changed under it."""
        chunks: list[bytes] = []
        while True:
            data = self._socket.recv(_BUFFER)
            kind, flags = _HEADER.unpack_from(data)[1:3]
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                number = -_RESULT.unpack_from(data, _HEADER.size)[0]
                if number > 0:
                    raise OSError(number, f"sock_diag: {os.strerror(number)}")
                return chunks, bool(flags & _DUMP_INTERRUPTED)
            chunks.append(data)


def parse(data: bytes) -> Iterator[Socket]:
    """The sockets in netlink messages."""
    view = memoryview(data)
    while len(view) >= _MESSAGE.size:
        length = _HEADER.unpack_from(view)[0]
        size = (length + 3) & ~3
        if not _MESSAGE.size <= size <= len(view):
            return
        alike = _alike(view, length, size)
        # Messages of one length are unpacked in one go: that takes a quarter of the time.
        padded = struct.Struct(f"{_MESSAGE.format}{size - _MESSAGE.size}x")
        yield from map(Socket._make, padded.iter_unpack(view[: alike * size]))
        view = view[alike * size :]


def _alike(view: memoryview, length: int, size: int) -> int:
    """How many messages of *length*, padded to *size*, *view* begins with."""
    count = len(view) // size
    lengths = view[: count * size].cast("I")[:: size // 4].tolist()
    if lengths.count(length) == count:
        return count
    return next(at for at, found in enumerate(lengths) if found != length)
