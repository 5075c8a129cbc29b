"""
Network interfaces: names, counters, addresses and default routes; see rtnetlink(7).

All of the network namespace that the objects are made in.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Protocol

from mender_monitor_py.host.netlinksocket import EventSocket, NetlinkSocket
from mender_monitor_py.netlinkmessages import Message, attributes, messages
from mender_monitor_py.trafficmeter import Link, Reading
from mender_monitor_py.trafficwindow import Bytes

# <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWSTATS, _GETSTATS = 92, 94
_GROUP_LINK, _GROUP_IPV4_ROUTE, _GROUP_IPV6_ROUTE = 0x1, 0x40, 0x400
_IFLA_IFNAME, _IFLA_STATS64, _IFLA_EXT_MASK = 3, 23, 29
_IFLA_STATS_LINK_64 = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_PRIORITY, _RTA_MULTIPATH = 4, 6, 9
_RTN_UNICAST, _RT_TABLE_MAIN, _RTNH_F_DEAD = 1, 254, 1
_IFF_LOOPBACK = 0x8
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_STATS = struct.Struct("=BxxxII")  # struct if_stats_msg: family, index, filter
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
# struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops, index
_COUNTERS = struct.Struct("=16xQQ")  # struct rtnl_link_stats64: packets of both directions, then bytes
_NUMBER = struct.Struct("=I")


class Interfaces:
    """Reads what there is. Every method raises OSError."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(socket.NETLINK_ROUTE)

    def close(self) -> None:
        self._socket.close()

    def links(self) -> dict[int, Link]:
        """All interfaces, by index."""
        mask = struct.pack("=HHI", 8, _IFLA_EXT_MASK, _SKIP_STATS)
        found = self._socket.dump(_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + mask)
        parsed = (_link(message) for message in found if message.kind == _NEWLINK)
        return {one[0]: one[1] for one in parsed if one is not None}

    def counters(self) -> dict[int, Bytes]:
        """
        The bytes that each has received and sent, by index.

        RTM_GETSTATS (Linux 4.7) gives the counters alone: a sixth of what RTM_GETLINK says of an interface.
        """
        try:
            answer = self._socket.dump(_GETSTATS, _STATS.pack(0, 0, 1 << (_IFLA_STATS_LINK_64 - 1)))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise OSError(error.errno, "it has no RTM_GETSTATS: Linux 4.7 or newer is needed") from error
            raise
        found = {}
        for message in answer:
            if message.kind == _NEWSTATS and len(message.body) >= _STATS.size:
                counters = _counters(message, _STATS.size, _IFLA_STATS_LINK_64)
                if counters is not None:
                    found[_STATS.unpack_from(message.body)[1]] = counters
        return found

    def addresses(self) -> dict[bytes, int]:
        """Our addresses, of 4 or 16 bytes, with the index of the interface that each belongs to."""
        found = {}
        for message in self._socket.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            if message.kind == _NEWADDR and len(message.body) >= _ADDRESS.size:
                values = dict(attributes(message.body, _ADDRESS.size))
                # Of a point-to-point link IFA_ADDRESS is the other end's.
                own = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
                if own is not None:
                    found[bytes(own)] = _ADDRESS.unpack_from(message.body)[4]
        return found

    def defaults(self) -> set[int]:
        """The interfaces of the default routes in the main table: the best metric, for IPv4 and for IPv6."""
        found: set[int] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            best: tuple[int, set[int]] | None = None
            for message in self._socket.dump(_GETROUTE, _ROUTE.pack(family, *[0] * 8)):
                route = _default_route(message, family)
                if route is not None and (best is None or route[0] < best[0]):
                    best = route
                elif route is not None and best is not None and route[0] == best[0]:
                    best = route[0], best[1] | route[1]
            found |= best[1] if best else set()
        return found


class Listener(Protocol):
    """Who wants to know what happens to the interfaces."""

    def link_there(self, index: int, link: Link, reading: Reading | None) -> None:
        """An interface is new, has another name, or something else about it is news."""

    def link_gone(self, index: int, reading: Reading | None) -> None:
        """An interface has gone; *reading* is the last that it showed."""

    def default_route_changed(self) -> None:
        """A default route was added or removed."""

    def links_lost(self) -> None:
        """Some of the news were lost: anything may be otherwise."""


class LinkWatch:
    """
    Tells *listener* in the running loop, until closed.

    *routes*: the default routes too. Raises OSError.
    """

    def __init__(self, listener: Listener, *, routes: bool) -> None:
        self._listener = listener
        groups = _GROUP_LINK | ((_GROUP_IPV4_ROUTE | _GROUP_IPV6_ROUTE) if routes else 0)
        self._events = EventSocket(socket.NETLINK_ROUTE, groups, self._received, listener.links_lost)
        self._events.follow()

    def read(self) -> None:
        """Tell what is known to the kernel by now."""
        self._events.read()

    def close(self) -> None:
        self._events.close()

    def _received(self, data: bytes) -> None:
        for message in messages(data):
            if message.kind in (_NEWLINK, _DELLINK):
                self._link_changed(message)
            elif message.kind in (_NEWROUTE, _DELROUTE) and bytes(message.body[1:2]) == b"\0":
                self._listener.default_route_changed()  # the prefix of the destination has no length

    def _link_changed(self, message: Message) -> None:
        found = _link(message)
        if found is None:
            return
        index, link = found
        counters = _counters(message, _LINK.size, _IFLA_STATS64)
        reading = None if counters is None else Reading(link.name, counters)
        if message.kind == _NEWLINK:
            self._listener.link_there(index, link, reading)
        else:
            self._listener.link_gone(index, reading)


def _link(message: Message) -> tuple[int, Link] | None:
    """The index and the interface of RTM_NEWLINK or RTM_DELLINK; None: of a bridge's port, or damaged."""
    if len(message.body) < _LINK.size:
        return None
    family, _, index, flags, _ = _LINK.unpack_from(message.body)
    name = next((value for kind, value in attributes(message.body, _LINK.size) if kind == _IFLA_IFNAME), None)
    if family != socket.AF_UNSPEC or name is None:
        return None
    text = bytes(name).rstrip(b"\0").decode("utf-8", "backslashreplace")
    return index, Link(text, bool(flags & _IFF_LOOPBACK))


def _counters(message: Message, offset: int, wanted: int) -> Bytes | None:
    for kind, value in attributes(message.body, offset):
        if kind == wanted and len(value) >= _COUNTERS.size:
            return Bytes(*_COUNTERS.unpack_from(value))
    return None


def _default_route(message: Message, family: int) -> tuple[int, set[int]] | None:
    """The metric and the interfaces of a default route in use; None: it is none."""
    if message.kind != _NEWROUTE or len(message.body) < _ROUTE.size:
        return None
    found, dst_len, src_len, _, table, _, _, kind, flags = _ROUTE.unpack_from(message.body)
    if (found, dst_len, src_len, table, kind) != (family, 0, 0, _RT_TABLE_MAIN, _RTN_UNICAST):
        return None
    values = dict(attributes(message.body, _ROUTE.size))
    metric = _number(values.get(_RTA_PRIORITY))
    if _RTA_MULTIPATH in values:
        return metric, set(_next_hops(values[_RTA_MULTIPATH]))
    return (metric, {_number(values.get(_RTA_OIF))}) if not flags & _RTNH_F_DEAD else None


def _next_hops(data: memoryview) -> list[int]:
    found = []
    while len(data) >= _NEXT_HOP.size:
        length, flags, _, index = _NEXT_HOP.unpack_from(data)
        if length < _NEXT_HOP.size:
            break
        if not flags & _RTNH_F_DEAD:
            found.append(index)
        data = data[(length + 3) & ~3 :]
    return found


def _number(value: memoryview | None) -> int:
    return _NUMBER.unpack_from(value)[0] if value is not None and len(value) >= _NUMBER.size else 0
