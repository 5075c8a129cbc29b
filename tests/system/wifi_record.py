"""
Records what nl80211 answers and tells, for the tests of the parsers.

    python -m tests.system.wifi_record >tests/fixtures/nl80211.json

Needs the virtual machine. Each value is a datagram as it came from the kernel, in hex: all of a look for the
first access point, for the others the message of the scan result in use.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from typing import Any

from mender_monitor_py import nl80211
from mender_monitor_py.host import netlinksocket, wireless
from mender_monitor_py.netlinkmessages import messages
from tests.system.wifi import in_guest, wifi_vm
from tests.system.wifi_air import POINTS, STA, Air

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1


class _Recorder(socket.socket):
    """Keeps what is received from the kernel."""

    kept: list[str] = []  # noqa: RUF012 - one list for all of them

    def recv(self, *arguments: Any) -> bytes:
        data = super().recv(*arguments)
        self.kept.append(data.hex())
        return data


def record() -> dict[str, list[str]]:
    """The datagrams of a look at the station by the access point it is on, and those of events."""
    found: dict[str, list[str]] = {}
    netlinksocket.socket.socket = _Recorder  # type: ignore[attr-defined]
    with Air() as air:
        family = wireless.look(STA).family
        assert family is not None
        found["disconnected"], _Recorder.kept = _Recorder.kept, []
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as events:
            events.bind((0, 0))
            for group in ("mlme", "config"):
                events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, family.groups[group])
            for name in POINTS:
                if name == "wrong":
                    continue
                air.connect(name)
                wireless.look(STA)
                kept, _Recorder.kept = _Recorder.kept, []
                found[name] = kept if name == "floor" else [_in_use(kept)]
                heard = _waiting(events)
                if name in ("floor", "floor2"):
                    found[f"events of {name}"] = heard
            air.disconnect()
            found["events of disconnecting"] = _waiting(events)
            air.unplug()
            found["events of unplugging"] = _waiting(events)
    return found


def _in_use(kept: list[str]) -> str:
    """The message of the network that the station is on."""
    for datagram in map(bytes.fromhex, kept):
        offset = 0
        for message in messages(datagram):
            length = int.from_bytes(datagram[offset : offset + 4], sys.byteorder)
            if nl80211.association(message.body) is not None:
                return datagram[offset : offset + length].hex()
            offset += (length + 3) & ~3
    raise AssertionError("the station is on no network")


def _waiting(events: socket.socket) -> list[str]:
    found = []
    while select.select([events], [], [], 0.5)[0]:
        found.append(events.recvfrom(65_536)[0].hex())
    return found


def main() -> None:
    if sys.argv[1:] == ["--guest"]:
        json.dump(record(), sys.stdout)
        return
    with wifi_vm() as vm:
        found = json.loads(in_guest(vm, "tests.system.wifi_record", "--guest"))
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
