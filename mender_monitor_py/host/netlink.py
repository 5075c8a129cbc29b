"""
Tells when the network may have come back: a link, an address or a route that is new.

rtnetlink(7) messages of the multicast groups below. Only a hint: what is new is not looked at.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from mender_monitor_py.host.netlinksocket import EventSocket
from mender_monitor_py.netlinkmessages import messages

# <linux/rtnetlink.h>: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_NEW = {16, 20, 24}  # RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE


class NetworkWatch:
    """Calls *callback* in the running loop on each piece of news, until closed. Raises OSError."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        # Where messages were lost, something is new.
        self._events = EventSocket(socket.NETLINK_ROUTE, _GROUPS, self._received, callback)
        self._events.follow()

    def close(self) -> None:
        """No call after this."""
        self._events.close()

    def _received(self, data: bytes) -> None:
        if any(message.kind in _NEW for message in messages(data)):
            self._callback()
