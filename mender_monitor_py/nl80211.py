"""
nl80211, a family of generic netlink: requests, and what the kernel's messages say.

Pure. Numbers are those of <linux/genetlink.h> and <linux/nl80211.h>. SSIDs and elements
come from the air: anybody within reach writes them. Whatever the bytes, nothing here raises, and what is
found is bounded by their length.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mender_monitor_py import wifisecurity
from mender_monitor_py.netlinkmessages import attribute, attributes
from mender_monitor_py.wifisecurity import Security

GENL_ID_CTRL = 16
CTRL_GET_FAMILY = 3
GET_INTERFACE, SET_INTERFACE, NEW_INTERFACE, DEL_INTERFACE = 5, 6, 7, 8
GET_STATION, GET_SCAN = 17, 32
CONNECT, ROAM, DISCONNECT = 46, 47, 48

STATION, P2P_CLIENT = 2, 8  # the kinds of interfaces that connect to an access point
KINDS = {
    0: "of no kind", 1: "an ad hoc network's", 3: "an access point's", 4: "a virtual access point's",
    5: "a bridge's", 6: "a monitor's", 7: "a mesh's", 9: "a P2P group owner's", 10: "a P2P device's",
    11: "of a network outside a BSS", 12: "a NAN's",
}  # fmt: skip

_COMMAND = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved
_U32, _S32 = struct.Struct("=I"), struct.Struct("=i")
_NONE = memoryview(b"")

_CTRL_FAMILY_ID, _CTRL_FAMILY_NAME, _CTRL_GROUPS = 1, 2, 7
_CTRL_GROUP_NAME, _CTRL_GROUP_ID = 1, 2
_IFINDEX, _IFNAME, _IFTYPE, _MAC, _STA_INFO, _BSS = 3, 4, 5, 6, 21, 47
_SSID, _REASON, _BY_AP = 52, 54, 71
_BSS_BSSID, _BSS_FREQUENCY, _BSS_CAPABILITY, _BSS_ELEMENTS = 1, 2, 5, 6
_BSS_SIGNAL, _BSS_STATUS, _BSS_BEACON, _BSS_LINK = 7, 9, 11, 21
_ASSOCIATED = 1
_PRIVACY = 0x10  # WLAN_CAPABILITY_PRIVACY
_STA_FLAGS = 17
_AUTHORISED = 1 << 1  # NL80211_STA_FLAG_AUTHORIZED
_SSID_ELEMENT = 0
SSID_BYTES = 32


class Family(NamedTuple):
    """A generic netlink family: its number, and those of its multicast groups by name."""

    number: int
    groups: Mapping[str, int]


class Interface(NamedTuple):
    """A wireless interface. *name* is empty for a P2P device; *ssid* only where the driver keeps it."""

    ifindex: int
    name: str
    kind: int
    ssid: bytes


@dataclass(frozen=True, slots=True)
class Network:
    """
    What an interface is associated with.

    *ssid* is empty when it is not known, *bssid* is ``aa:bb:cc:dd:ee:ff``, *frequency* is in MHz, *signal*
    in dBm. The signal is no part of what makes two of them equal.
    """

    ssid: bytes
    bssid: str
    frequency: int
    security: Security
    signal: float | None = field(default=None, compare=False)


class Event(NamedTuple):
    """News: *command*, for the interface *ifindex*. *reason* is IEEE 802.11's number, 0: none."""

    command: int
    ifindex: int
    reason: int = 0
    by_access_point: bool = False


# Requests


def request(command: int, attributes: bytes = b"") -> bytes:
    """The body of a generic netlink request."""
    return _COMMAND.pack(command, 1, 0) + attributes


def of_interface(ifindex: int) -> bytes:
    """The attribute that says which interface is meant."""
    return attribute(_IFINDEX, _U32.pack(ifindex))


# Answers and news


def family(body: memoryview, name: str = "nl80211") -> Family | None:
    """What the kernel says of the family *name*. None: it speaks of another one."""
    found = _attributes(body, _COMMAND.size)
    if _text(found.get(_CTRL_FAMILY_NAME)) != name:
        return None
    groups = map(_attributes, _attributes(found.get(_CTRL_GROUPS, _NONE)).values())
    return Family(
        _number(found.get(_CTRL_FAMILY_ID)),
        {_text(group.get(_CTRL_GROUP_NAME)): _number(group.get(_CTRL_GROUP_ID)) for group in groups},
    )


def interface(body: memoryview) -> Interface:
    """What the kernel says of a wireless interface."""
    found = _attributes(body, _COMMAND.size)
    return Interface(
        _number(found.get(_IFINDEX)),
        _text(found.get(_IFNAME)),
        _number(found.get(_IFTYPE)),
        bytes(found.get(_SSID, _NONE)[:SSID_BYTES]),
    )


def association(body: memoryview) -> tuple[int, Network] | None:
    """
    The network of a scan result that the interface is associated with, and the number of the link.

    None: it is a neighbour. A connection over several links (Wi-Fi 7) has a result for each.
    """
    bss = _attributes(_attributes(body, _COMMAND.size).get(_BSS, _NONE))
    if _BSS_STATUS not in bss or _number(bss[_BSS_STATUS]) != _ASSOCIATED:
        return None
    elements = bytes(bss.get(_BSS_ELEMENTS) or bss.get(_BSS_BEACON, _NONE))
    signal = bss.get(_BSS_SIGNAL, _NONE)
    network = Network(
        ssid=_ssid(elements),
        bssid=bss.get(_BSS_BSSID, _NONE)[:6].hex(":"),
        frequency=_number(bss.get(_BSS_FREQUENCY)),
        security=wifisecurity.security(elements, bool(_number(bss.get(_BSS_CAPABILITY)) & _PRIVACY)),
        signal=_S32.unpack(signal)[0] / 100 if len(signal) == _S32.size else None,
    )
    return _number(bss.get(_BSS_LINK)), network


def first(links: Iterable[tuple[int, Network]]) -> Network | None:
    """Of a connection's links the one with the lowest number."""
    return min(links, key=lambda link: link[0], default=(0, None))[1]


def authorised(body: memoryview) -> bool | None:
    """Whether the access point, a station to us, has let us in. None: the driver does not tell."""
    info = _attributes(_attributes(body, _COMMAND.size).get(_STA_INFO, _NONE))
    flags = info.get(_STA_FLAGS, _NONE)
    if len(flags) != 2 * _U32.size:
        return None
    # struct nl80211_sta_flag_update: which flags are known, which are set
    known, on = _U32.unpack_from(flags)[0], _U32.unpack_from(flags, _U32.size)[0]
    return bool(on & _AUTHORISED) if known & _AUTHORISED else None


def event(body: memoryview) -> Event | None:
    """What a multicast message tells. None: it is too short."""
    if len(body) < _COMMAND.size:
        return None
    found = _attributes(body, _COMMAND.size)
    return Event(body[0], _number(found.get(_IFINDEX)), _number(found.get(_REASON)), _BY_AP in found)


def _ssid(elements: bytes) -> bytes:
    """The SSID in *elements*; empty when it is hidden: no bytes, or zeros in the place of each."""
    for number, value in wifisecurity.elements(elements):
        if number == _SSID_ELEMENT:
            return value[:SSID_BYTES] if any(value) else b""
    return b""


def _attributes(body: memoryview, offset: int = 0) -> dict[int, memoryview]:
    """Of several attributes of one type the first."""
    found: dict[int, memoryview] = {}
    for kind, value in attributes(body, offset):
        found.setdefault(kind, value)
    return found


def _number(value: memoryview | None) -> int:
    """An unsigned number of at most 4 bytes; anything else is 0."""
    return int.from_bytes(value, sys.byteorder) if value is not None and len(value) <= 4 else 0


def _text(value: memoryview | None) -> str:
    return bytes(value or b"").partition(b"\0")[0].decode("utf-8", "surrogateescape")
