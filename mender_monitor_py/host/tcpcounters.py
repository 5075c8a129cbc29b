"""
The bytes of TCP connections, living and ended, by the kernel's socket diagnostics; see sock_diag(7).

A connection is known by its cookie, which no other has until the next boot. Its end is told to a multicast
group of the kernel, with the last counters, and without the process.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mender_monitor_py.host.netlinksocket import EventSocket, NetlinkSocket
from mender_monitor_py.host.sockdiag import NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY
from mender_monitor_py.netlinkmessages import Message, attributes, messages
from mender_monitor_py.trafficwindow import Bytes

_INFO = 2  # INET_DIAG_INFO
# Without TIME_WAIT, NEW_SYN_RECV, CLOSE and LISTEN: these have no counters. <net/tcp_states.h>
_STATES = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11))
_GROUPS = 0x1 | 0x4  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
_HELD = 1 << 20  # a message takes 1.3 KiB of the kernel's memory: some 800 connections
_MAPPED = bytes(10) + b"\xff\xff"

_REQUEST = struct.Struct("=BBBBI48x")  # struct inet_diag_req_v2: family, protocol, extensions, states
# struct inet_diag_msg: family; ports; addresses; interface; cookie; inode
_MESSAGE = struct.Struct("=Bxxx 2s2s 16s16s I 8s 16x I")
_COUNTERS = struct.Struct("=120xQQ")  # struct tcp_info: tcpi_bytes_acked, tcpi_bytes_received (Linux 4.1)


class Connection(NamedTuple):
    """A TCP connection; addresses of 4 or 16 bytes, *interface* 0 unless it is bound to one."""

    cookie: bytes
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    interface: int
    inode: int
    counters: Bytes

    @property
    def loopback(self) -> bool:
        return self.local[:1] == b"\x7f" if len(self.local) == 4 else self.local == bytes(15) + b"\1"

    @property
    def peer(self) -> str:
        """The other end and the service, in words. Of two ports the lower one is the service's, as a rule."""
        family = socket.AF_INET if len(self.remote) == 4 else socket.AF_INET6
        return f"{socket.inet_ntop(family, self.remote)}, port {min(self.local_port, self.remote_port)}"


class TcpCounters:
    """
    The connections of the network namespace that it is made in.

    The kernel holds what has ended until it is asked for: nothing wakes us. Raises OSError.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_SOCK_DIAG)
        self._ended: list[Connection] = []
        self.lost = 0
        try:
            self._events = EventSocket(NETLINK_SOCK_DIAG, _GROUPS, self._received, self._count_lost)
        except OSError:
            self._socket.close()
            raise
        self._events.hold(_HELD)

    def close(self) -> None:
        self._socket.close()
        self._events.close()

    def connections(self) -> Iterator[Connection]:
        """Those that live."""
        yield from parse(self._dump(socket.AF_INET))
        yield from parse(self._dump(socket.AF_INET6))

    def ended(self) -> list[Connection]:
        """
        Those that have ended since the last call, without their inodes.

        *lost* counts how often the kernel could not hold all of them.
        """
        self._events.read()
        ended, self._ended = self._ended, []
        return ended

    def _dump(self, family: int) -> Iterator[Message]:
        """One after the other: a server has many, and each takes as much again when it is taken apart."""
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _STATES)
        try:
            datagrams = self._socket.datagrams(SOCK_DIAG_BY_FAMILY, body)
        except OSError as error:
            if family != socket.AF_INET6 or error.errno != errno.ENOENT:
                raise
            return  # IPv6 may be left out of the kernel
        for data in datagrams:
            yield from messages(data)

    def _received(self, data: bytes) -> None:
        self._ended += parse(messages(data))

    def _count_lost(self) -> None:
        self.lost += 1


def parse(found: Iterable[Message]) -> Iterator[Connection]:
    """The connections in netlink messages that have counters."""
    for message in found:
        if message.kind != SOCK_DIAG_BY_FAMILY or len(message.body) < _MESSAGE.size:
            continue
        family, local_port, remote_port, local, remote, index, cookie, inode = _MESSAGE.unpack_from(
            message.body
        )
        for kind, value in attributes(message.body, _MESSAGE.size):
            if kind == _INFO and len(value) >= _COUNTERS.size:
                sent, received = _COUNTERS.unpack_from(value)
                yield Connection(
                    cookie,
                    _address(family, local),
                    int.from_bytes(local_port, "big"),
                    _address(family, remote),
                    int.from_bytes(remote_port, "big"),
                    index,
                    inode,
                    Bytes(received, sent),
                )
                break


def _address(family: int, data: bytes) -> bytes:
    """An IPv4 address has 4 bytes, in whatever kind of socket."""
    if family == socket.AF_INET:
        return data[:4]
    return data[12:] if data.startswith(_MAPPED) else data
