"""Messages of nl80211, as Debian's kernel sent them (tests/system/wifi_record.py), and as nobody should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import nl80211
from mender_monitor_py.netlinkmessages import Message, attribute, messages
from mender_monitor_py.nl80211 import Event, Network
from mender_monitor_py.wifisecurity import Security

RECORDED: dict[str, list[str]] = json.loads((Path(__file__).parents[1] / "fixtures/nl80211.json").read_text())
RAW = bytes(range(1, 24)) + b'"\\ \xff\xfe\xe2\x80\xae!'
WPA2 = Security(2, "WPA2 (PSK)")


def recorded(name: str) -> Iterator[Message]:
    for datagram in RECORDED[name]:
        yield from messages(bytes.fromhex(datagram))


def network(name: str) -> Network | None:
    # NL80211_CMD_NEW_SCAN_RESULTS
    results = [message.body for message in recorded(name) if message.body[0] == 34]
    return nl80211.first(filter(None, map(nl80211.association, results)))


def test_the_family_and_its_groups():
    families = (nl80211.family(message.body) for message in recorded("floor"))
    family = next(filter(None, families))
    assert family.number == 32
    assert set(family.groups) == {"config", "scan", "regulatory", "mlme", "vendor", "nan"}
    assert all(family.groups.values())


def test_the_interfaces_and_their_kinds():
    found = [nl80211.interface(one.body) for one in recorded("floor") if one.body[0] == 7]
    station = next(one for one in found if one.name == "wlan1")
    assert (station.ifindex, station.kind, station.ssid) == (3, nl80211.STATION, b"")
    assert nl80211.KINDS[next(one for one in found if one.name == "wlan0").kind] == "an access point's"
    assert RAW in {one.ssid for one in found}


@pytest.mark.parametrize(
    ("name", "ssid", "number", "security"),
    [
        ("floor", b"plant-floor", 0, WPA2),
        ("floor2", b"plant-floor", 1, WPA2),
        ("twin", b"plant-floor", 2, WPA2),
        ("open", b"plant-floor", 3, Security(0, "open")),
        ("cafe", b"Caf\xc3\xa9 upstairs", 4, WPA2),
        ("raw", RAW, 5, WPA2),
        ("hidden", b"dark-floor", 6, WPA2),
        ("wpa", b"plant-floor", 7, Security(1, "WPA (PSK)")),
        ("wpa3", b"plant-floor", 8, Security(3, "WPA3 (SAE)")),
        ("transition", b"plant-floor", 9, Security(2, "WPA2/WPA3 (PSK SAE)")),
        ("owe", b"owe-floor", 10, Security(1, "OWE: encrypted, for anybody")),
    ],
)
def test_the_network_that_is_in_use(name, ssid, number, security):
    """Of all that are in range the one with the mark, with what its elements say."""
    found = network(name)
    assert found == Network(ssid, f"02:00:00:00:00:{number:02x}", 2437, security)
    assert found is not None
    assert found.signal == -30.0


def test_no_network_is_in_use():
    assert network("disconnected") is None


def test_the_access_point_has_let_the_station_in():
    stations = [message.body for message in recorded("floor") if message.body[0] == 19]
    assert [nl80211.authorised(station) for station in stations] == [True]


def test_a_roam_is_an_end_and_a_beginning():
    events = [nl80211.event(message.body) for message in recorded("events of floor2")]
    ours = [event for event in events if event is not None and event.ifindex == 3]
    told = [event.command for event in ours]
    assert told.index(nl80211.DISCONNECT) < told.index(nl80211.CONNECT)
    assert Event(nl80211.DISCONNECT, 3, 3, False) in ours
    assert nl80211.ROAM not in told


def test_an_interface_that_goes_away_is_told():
    events = [nl80211.event(message.body) for message in recorded("events of unplugging")]
    assert Event(nl80211.DEL_INTERFACE, 3) in events


def test_of_several_links_the_first_counts():
    networks = [Network(b"x", f"02:00:00:00:00:0{n}", 5180, WPA2) for n in range(3)]
    links = [(2, networks[2]), (0, networks[0]), (1, networks[1])]
    assert nl80211.first(links) is networks[0]
    assert nl80211.first([]) is None


@pytest.mark.parametrize("status", [0, 2])
def test_authenticated_or_ad_hoc_is_not_associated(status):
    bss = attribute(1, b"\2" + bytes(5)) + attribute(9, bytes([status, 0, 0, 0]))
    assert nl80211.association(memoryview(b"\x22\1\0\0" + attribute(47, bss))) is None


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (b"\x02\0\0\0\x02\0\0\0", True),
        (b"\x02\0\0\0\0\0\0\0", False),
        (b"\x04\0\0\0\x02\0\0\0", None),
        (b"\x02\0\0\0", None),
    ],
)
def test_who_is_let_in_by_the_flags_that_the_driver_knows(flags, expected):
    info = attribute(21, attribute(17, flags))
    assert nl80211.authorised(memoryview(b"\x13\1\0\0" + info)) is expected


def test_a_hidden_ssid_is_none():
    """A beacon that hides it has no bytes, or zeros in their place."""
    for element in (b"\0\0", b"\0\5" + bytes(5)):
        bss = attribute(1, b"\2" + bytes(5)) + attribute(6, element)
        bss += attribute(9, b"\1\0\0\0")
        found = nl80211.association(memoryview(b"\x22\1\0\0" + attribute(47, bss)))
        assert found is not None
        assert found[1].ssid == b""


def parse_all(data: bytes) -> None:
    for message in messages(data):
        nl80211.family(message.body)
        nl80211.event(message.body)
        nl80211.authorised(message.body)
        one = nl80211.interface(message.body)
        assert len(one.ssid) <= nl80211.SSID_BYTES
        found = nl80211.association(message.body)
        if found is not None:
            assert len(found[1].ssid) <= nl80211.SSID_BYTES
            assert len(found[1].security.text) < 300


@given(st.binary(max_size=600))
def test_any_datagram_is_survived(data):
    parse_all(data)


@given(st.data())
def test_a_changed_datagram_is_survived(data):
    """What the kernel sent, with bytes changed and the end cut off."""
    name = data.draw(st.sampled_from(sorted(RECORDED)))
    datagram = bytearray.fromhex(data.draw(st.sampled_from(RECORDED[name])))
    for _ in range(data.draw(st.integers(1, 8))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    parse_all(bytes(datagram[: data.draw(st.integers(0, len(datagram)))]))
