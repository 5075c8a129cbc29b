"""What an access point's elements say of its security."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.wifisecurity import OPEN, WEAK, WPA2, WPA3, Security, elements, security

CCMP, TKIP, WEP, GCMP256 = 4, 2, 1, 9
OUI = b"\x00\x0f\xac"


def rsn(
    *managements: int, pairwise: tuple[int, ...] = (CCMP,), group: int = CCMP, required: bool = False
) -> bytes:
    return element(48, body(OUI, managements, pairwise, group) + (b"\xc0\0" if required else b"\x80\0"))


def wpa(*managements: int) -> bytes:
    oui = b"\x00\x50\xf2"
    return element(221, oui + b"\1" + body(oui, managements, (TKIP,), TKIP))


def body(oui: bytes, managements: tuple[int, ...], pairwise: tuple[int, ...], group: int) -> bytes:
    def suites(numbers: tuple[int, ...]) -> bytes:
        return len(numbers).to_bytes(2, "little") + b"".join(oui + bytes([n]) for n in numbers)

    return b"\1\0" + oui + bytes([group]) + suites(pairwise) + suites(managements)


def element(number: int, value: bytes) -> bytes:
    return bytes([number, len(value)]) + value


SSID = element(0, b"plant-floor")


@pytest.mark.parametrize(
    ("data", "privacy", "expected"),
    [
        (SSID, False, Security(OPEN, "open")),
        (SSID, True, Security(WEAK, "WEP")),
        (SSID + wpa(2), True, Security(WEAK, "WPA (PSK)")),
        (SSID + wpa(1), True, Security(WEAK, "WPA (802.1X)")),
        (SSID + rsn(2), True, Security(WPA2, "WPA2 (PSK)")),
        (SSID + rsn(2) + wpa(2), True, Security(WPA2, "WPA/WPA2 (PSK)")),
        (wpa(2) + rsn(2, pairwise=(CCMP, TKIP), group=TKIP), True, Security(WPA2, "WPA/WPA2 (PSK)")),
        (rsn(4, 6), True, Security(WPA2, "WPA2 (FT-PSK PSK-SHA256)")),
        (rsn(2, 8), True, Security(WPA2, "WPA2/WPA3 (PSK SAE)")),
        (rsn(8, required=True), True, Security(WPA3, "WPA3 (SAE)")),
        (rsn(24, 25, required=True), True, Security(WPA3, "WPA3 (SAE-EXT-KEY FT-SAE-EXT-KEY)")),
        (rsn(1), True, Security(WPA2, "WPA2 (802.1X)")),
        (rsn(5), True, Security(WPA2, "WPA2 (802.1X-SHA256)")),
        (rsn(5, required=True), True, Security(WPA3, "WPA3 (802.1X-SHA256)")),
        (rsn(12, pairwise=(GCMP256,), group=GCMP256), True, Security(WPA3, "WPA3 (802.1X-SUITE-B-192)")),
        (rsn(18, required=True), True, Security(WEAK, "OWE: encrypted, for anybody")),
        (rsn(2, pairwise=(TKIP,)), True, Security(WEAK, "WPA2 with the ciphers of WPA or WEP (PSK)")),
        (rsn(2, pairwise=(0,), group=CCMP), True, Security(WPA2, "WPA2 (PSK)")),
        (rsn(2, pairwise=(0,), group=WEP), True, Security(WEAK, "WPA2 with the ciphers of WPA or WEP (PSK)")),
        (rsn(2, 99), True, Security(WPA2, "WPA2 (PSK 00:0f:ac:63)")),
        (rsn(99), True, Security(WEAK, "an unknown kind (00:0f:ac:63)")),
        (rsn(), True, Security(WEAK, "an unknown kind (no key management)")),
        # Every field behind the version may be missing: CCMP and 802.1X then.
        (element(48, b"\1\0"), True, Security(WPA2, "WPA2 (802.1X)")),
        (element(48, b"\1\0" + OUI), True, Security(WEAK, "an element that cannot be read")),
        (element(48, b"\2\0"), True, Security(WEAK, "an element that cannot be read")),
        (element(48, b""), True, Security(WEAK, "an element that cannot be read")),
        # More suites than there is room for.
        (
            element(48, b"\1\0" + OUI + b"\4\xff\xff" + OUI),
            True,
            Security(WEAK, "an element that cannot be read"),
        ),
    ],
)
def test_security(data, privacy, expected):
    assert security(data, privacy) == expected


def test_the_first_of_several_elements_counts():
    """As hostap reads them: a second one changes nothing."""
    assert security(rsn(2) + rsn(18), True).grade == WPA2


def test_the_easy_connect_of_the_alliance():
    suite = b"\x50\x6f\x9a\x02"
    data = element(48, b"\1\0" + OUI + b"\4\1\0" + OUI + b"\4\1\0" + suite)
    assert security(data, True) == Security(WPA3, "WPA3 (DPP)")


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_have_a_security(data, privacy):
    found = security(data, privacy)
    assert OPEN <= found.grade <= WPA3
    assert found.text.isprintable()
    assert len(found.text) < 300


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=255)), max_size=10), st.binary(max_size=1))
def test_elements_are_what_was_sent(sent, rest):
    data = b"".join(element(number, value) for number, value in sent)
    assert list(elements(data + rest)) == sent


@given(st.binary(max_size=255))
def test_any_rsn_element_is_read_or_weak(value):
    assert security(element(48, value), True).grade >= WEAK
