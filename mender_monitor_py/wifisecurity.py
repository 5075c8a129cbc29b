"""
How a Wi-Fi network protects its stations, by what its access point says of itself.

Pure. The elements of a beacon or probe response, IEEE 802.11-2020: 9.4.2.24 RSN element (WPA2, WPA3, OWE),
and Microsoft's vendor element that came before it (WPA). Anybody can send these: they say what is offered,
and are no proof of who offers it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# In this order, each better than the one before. WEAK: encrypted, but broken (WEP, WPA) or for anybody (OWE).
OPEN, WEAK, WPA2, WPA3 = range(4)

_RSN, _VENDOR = 48, 221
_WPA = b"\x00\x50\xf2\x01"
_OUI_RSN, _OUI_WPA, _OUI_ALLIANCE = b"\x00\x0f\xac", b"\x00\x50\xf2", b"\x50\x6f\x9a"
_U16 = struct.Struct("<H")
_MANAGEMENT_PROTECTED = 1 << 6  # management frame protection is required

_GROUP_CIPHER = 0
_STRONG_CIPHERS = {4, 8, 9, 10}  # CCMP-128, GCMP-128, GCMP-256, CCMP-256
# Key managements by the number of their suite; the first two columns of table 9-151, and hostap's names.
_PSK = {2: "PSK", 4: "FT-PSK", 6: "PSK-SHA256", 19: "FT-PSK-SHA384", 20: "PSK-SHA384"}
_SAE = {8: "SAE", 9: "FT-SAE", 24: "SAE-EXT-KEY", 25: "FT-SAE-EXT-KEY"}
_SUITE_B = {11: "802.1X-SUITE-B", 12: "802.1X-SUITE-B-192", 13: "FT-802.1X-SHA384"}
_EAP_SHA1 = {1: "802.1X"}
# WPA3-Enterprise is one of these with protected management frames; without, it is WPA2.
_EAP = {
    3: "FT-802.1X", 5: "802.1X-SHA256", 14: "FILS-SHA256", 15: "FILS-SHA384", 16: "FT-FILS-SHA256",
    17: "FT-FILS-SHA384", 22: "FT-802.1X-SHA384", 23: "802.1X-SHA384",
}  # fmt: skip
_OWE = {18: "OWE"}
_NAMES = _PSK | _SAE | _SUITE_B | _EAP_SHA1 | _EAP | _OWE
_DPP = _OUI_ALLIANCE + b"\x02"
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Security:
    """How good it is, from OPEN to WPA3, and what it is called: ``WPA2 (PSK)``."""

    grade: int
    text: str


class _Malformed(Exception):
    """An element that ends within a field, or says more than it holds."""


@dataclass(frozen=True, slots=True)
class _Suites:
    """Fields of an RSN or WPA element. Suites are OUI and number."""

    group: bytes
    pairwise: tuple[bytes, ...]
    managements: tuple[bytes, ...]
    protected: bool


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements in *data*, as number and value. What is cut off is left out."""
    offset = 0
    while offset + 2 <= len(data):
        number, length = data[offset], data[offset + 1]
        if offset + 2 + length > len(data):
            return
        yield number, data[offset + 2 : offset + 2 + length]
        offset += 2 + length


def security(data: bytes, privacy: bool) -> Security:
    """
    What the elements in *data* offer, with the *privacy* bit of the capabilities.

    A network that takes WPA2 beside WPA3 is WPA2: nothing shows which of them was chosen. One that takes WPA
    beside WPA2 is WPA2, too: stations of today do not choose WPA.
    """
    rsn = wpa = None
    for number, value in elements(data):
        if number == _RSN and rsn is None:
            rsn = value
        elif number == _VENDOR and value.startswith(_WPA) and wpa is None:
            wpa = value[len(_WPA) :]
    try:
        if rsn is not None:
            return _of_rsn(_suites(rsn, _OUI_RSN), beside_wpa=wpa is not None)
        if wpa is not None:
            return Security(WEAK, f"WPA ({_names(_suites(wpa, _OUI_WPA).managements, _OUI_WPA)})")
    except _Malformed:
        return Security(WEAK, "an element that cannot be read")
    return Security(WEAK, "WEP") if privacy else Security(OPEN, "open")


def _of_rsn(suites: _Suites, *, beside_wpa: bool) -> Security:
    names = _names(suites.managements, _OUI_RSN)
    grades = {grade for one in suites.managements if (grade := _grade(one, suites.protected)) is not None}
    if not _strong_cipher(suites):
        return Security(WEAK, f"WPA2 with the ciphers of WPA or WEP ({names})")
    if not grades:
        return Security(WEAK, f"an unknown kind ({names})")
    if grades == {WEAK}:
        return Security(WEAK, f"{names}: encrypted, for anybody")
    kinds = [name for grade, name in ((WPA2, "WPA2"), (WPA3, "WPA3")) if grade in grades]
    if beside_wpa:
        kinds.insert(0, "WPA")
    return Security(min(grades), f"{'/'.join(kinds)} ({names})")


def _grade(suite: bytes, protected: bool) -> int | None:
    """None: it is not known, and no station of ours would choose it."""
    number = suite[3] if suite.startswith(_OUI_RSN) else 0
    if suite == _DPP or number in _SAE or number in _SUITE_B:
        return WPA3
    if number in _EAP:
        return WPA3 if protected else WPA2
    if number in _PSK or number in _EAP_SHA1:
        return WPA2
    return WEAK if number in _OWE else None


def _strong_cipher(suites: _Suites) -> bool:
    ciphers = {one[3] for one in suites.pairwise if one.startswith(_OUI_RSN)}
    if ciphers == {_GROUP_CIPHER}:
        ciphers = {suites.group[3]} if suites.group.startswith(_OUI_RSN) else set()
    return bool(ciphers & _STRONG_CIPHERS)


def _names(managements: tuple[bytes, ...], oui: bytes) -> str:
    named = []
    for suite in managements[:_MOST_NAMED]:
        name = _NAMES.get(suite[3]) if suite.startswith(oui) else None
        named.append("DPP" if suite == _DPP else name or suite.hex(":"))
    return " ".join(named) or "no key management"


def _suites(body: bytes, oui: bytes) -> _Suites:
    """
    The fields of an element; each of them may be missing from the end, and has a default then.

    Raises _Malformed.
    """
    reader = _Reader(body)
    if reader.number(0) != 1:
        raise _Malformed("a version of later times")
    group = reader.suite(oui + b"\x04")
    pairwise = reader.suites(oui + b"\x04")
    managements = reader.suites(oui + b"\x01")
    return _Suites(group, pairwise, managements, bool(reader.number(0) & _MANAGEMENT_PROTECTED))


class _Reader:
    """Takes field after field from an element."""

    def __init__(self, body: bytes) -> None:
        self._rest = body

    def number(self, default: int) -> int:
        number: int = _U16.unpack(self._take(2))[0] if self._rest else default
        return number

    def suite(self, default: bytes) -> bytes:
        return self._take(4) if self._rest else default

    def suites(self, default: bytes) -> tuple[bytes, ...]:
        if not self._rest:
            return (default,)
        return tuple(self._take(4) for _ in range(self.number(0)))

    def _take(self, size: int) -> bytes:
        if len(self._rest) < size:
            raise _Malformed("it ends within a field")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
