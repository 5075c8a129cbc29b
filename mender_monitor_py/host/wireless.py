"""
Wireless interfaces by the kernel's nl80211: what one is on, and the news of all.

Plain generic netlink sockets; no privilege is needed. nl80211 has no single answer to "which network": of the
scan results that the kernel keeps, the one in use is marked. They are read as they are, no scan is started.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py import nl80211
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.netlinksocket import EventSocket, NetlinkSocket
from mender_monitor_py.netlinkmessages import messages
from mender_monitor_py.nl80211 import Event, Family, Interface, Network

_NETLINK_GENERIC = 16
_GROUPS = ("mlme", "config")  # connections; interfaces that come and go
_SYS_CLASS_NET = Path("/sys/class/net")


class Look(NamedTuple):
    """
    What an interface is on.

    *ifindex* is 0 when there is no such interface. *reason* says why it is on no network. *authorised*: the
    access point has let us in; True as well where the driver does not tell.
    """

    family: Family | None
    ifindex: int = 0
    network: Network | None = None
    authorised: bool = False
    reason: str = ""


def look(name: str) -> Look:
    """
    Look at the interface *name*. It may block while its driver is busy: call it in a thread.

    Raises UnknownError when the kernel does not tell: no answer, or an interface of another kind.
    """
    try:
        kernel = NetlinkSocket(_NETLINK_GENERIC)
        try:
            return _look(kernel, name)
        finally:
            kernel.close()
    except TimeoutError as error:
        raise UnknownError(f"the Wi-Fi driver of {name} does not answer") from error
    except OSError as error:
        raise UnknownError(f"nl80211: {error.strerror}") from error


def _look(kernel: NetlinkSocket, name: str) -> Look:
    # All families: to ask for one by its name has the kernel load its module.
    families = kernel.dump(nl80211.GENL_ID_CTRL, nl80211.request(nl80211.CTRL_GET_FAMILY))
    family = next(filter(None, (nl80211.family(one.body) for one in families)), None)
    if family is None:
        return Look(None, reason="this kernel has no nl80211: no Wi-Fi driver is loaded")
    found = kernel.dump(family.number, nl80211.request(nl80211.GET_INTERFACE))
    interface = next((one for one in (nl80211.interface(m.body) for m in found) if one.name == name), None)
    if interface is None:
        return Look(family, reason=f"there is no wireless interface {name}")
    if interface.kind not in (nl80211.STATION, nl80211.P2P_CLIENT):
        kind = nl80211.KINDS.get(interface.kind, "of a kind that is not known")
        raise UnknownError(f"{name} is {kind}, and does not connect to access points")
    try:
        network = _network(kernel, family, interface)
        if network is None:
            return Look(family, interface.ifindex, reason=_why(name))
        return Look(family, interface.ifindex, network, _authorised(kernel, family, interface))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return Look(family, reason=f"there is no wireless interface {name}")


def _network(kernel: NetlinkSocket, family: Family, interface: Interface) -> Network | None:
    """What *interface* is associated with."""
    which = nl80211.of_interface(interface.ifindex)
    results = kernel.dump(family.number, nl80211.request(nl80211.GET_SCAN, which))
    network = nl80211.first(filter(None, (nl80211.association(one.body) for one in results)))
    if network is not None and not network.ssid:
        return replace(network, ssid=interface.ssid)
    return network


def _authorised(kernel: NetlinkSocket, family: Family, interface: Interface) -> bool:
    which = nl80211.of_interface(interface.ifindex)
    try:
        stations = kernel.dump(family.number, nl80211.request(nl80211.GET_STATION, which))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return True
    return not any(nl80211.authorised(one.body) is False for one in stations)


def _why(name: str) -> str:
    """Why *name* is on no network, as far as it can be seen."""
    for folder in _SYS_CLASS_NET.joinpath(name, "phy80211").glob("rfkill*"):
        if _read(folder / "hard") == "1":
            return "the radio is switched off (rfkill, by hardware)"
        if _read(folder / "soft") == "1":
            return "the radio is switched off (rfkill, by software)"
    # IFF_UP, see netdevice(7)
    flags = _read(_SYS_CLASS_NET / name / "flags")
    if flags.startswith("0x") and not int(flags, 16) & 1:
        return f"{name} is down"
    return f"{name} is not connected"


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


class WirelessEvents:
    """
    Calls *callback* in the running loop for each event of nl80211, with None for lost ones, until closed.

    *family* is the one that it listens to: another number means a driver stack that was loaded anew. Raises
    OSError.
    """

    def __init__(self, family: Family, callback: Callable[[Event | None], None]) -> None:
        self.family = family
        self._callback = callback
        self._events = EventSocket(_NETLINK_GENERIC, 0, self._received, lambda: callback(None))
        try:
            for name in _GROUPS:
                if name in family.groups:
                    self._events.join(family.groups[name])
        except OSError:
            self._events.close()
            raise
        self._events.follow()

    def close(self) -> None:
        """No call after this."""
        self._events.close()

    def _received(self, data: bytes) -> None:
        for message in messages(data):
            if message.kind == self.family.number and (event := nl80211.event(message.body)):
                self._callback(event)
