"""
Tells when the network may have come back: a link, an address or a route that is new.

rtnetlink(7) messages of the multicast groups below. Only a hint: what is new is not looked at.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterator

# <linux/rtnetlink.h>: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_NEW = {16, 20, 24}  # RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE
_HEADER = struct.Struct("=LHHLL")  # struct nlmsghdr: length, type, flags, sequence, port


class NetworkWatch:
    """Calls *callback* in the running loop on each piece of news, until closed. Raises OSError."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            self._socket.bind((0, _GROUPS))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """No call after this."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _read(self) -> None:
        try:
            data, sender = self._socket.recvfrom(65_536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._callback()  # messages were lost: something is new
            return
        # Anybody may send to a netlink socket; the kernel's port is 0.
        if sender[0] == 0 and _NEW.intersection(message_types(data)):
            self._callback()


def message_types(data: bytes) -> Iterator[int]:
    """The type of each netlink message in *data*."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind
        offset += (length + 3) & ~3  # NLMSG_ALIGN
