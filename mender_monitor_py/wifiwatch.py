r"""
Whether the network that a wireless interface is on is an expected one, and how to tell it.

Pure. Times are seconds on CLOCK_BOOTTIME. An SSID is up to 32 bytes of any kind, chosen by whoever sets up an
access point. It is written as in a check file: ``plant-floor``, ``"Guest WLAN"``, ``caf\303``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from mender_monitor_py import wifisecurity
from mender_monitor_py.nl80211 import SSID_BYTES, Network

GRADES = {"any": wifisecurity.OPEN, "wpa2": wifisecurity.WPA2, "wpa3": wifisecurity.WPA3}
# The interface may come up late at boot; until then it is not missed.
BOOT_S = 180.0

_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\[0-3][0-7]{2})+)"|((?:[^\s"\\]|\\[0-3][0-7]{2})+))(?=\s|$)')
_BSSID = re.compile(r"(?:[0-9a-f]{2}|\*)(?::(?:[0-9a-f]{2}|\*)){0,5}")
# Reasons of IEEE 802.11-2020, table 9-49, that say something to a person.
_REASONS = {
    2: "the authentication is not valid any more", 3: "the other side leaves", 4: "it was idle",
    5: "the access point has too many stations", 6: "a frame before the authentication",
    7: "a frame before the association", 8: "the station leaves", 14: "a wrong message integrity code",
    15: "no key was agreed on in time: a wrong passphrase?", 16: "no group key was agreed on in time",
    23: "IEEE 802.1X failed",
}  # fmt: skip


class Rule(NamedTuple):
    """
    What is expected.

    *ssids* empty: the one that is seen first. *bssids* empty: any; else addresses, in which ``*`` stands for
    any number of bytes. *security* is a key of :data:`GRADES`.
    """

    ssids: tuple[bytes, ...] = ()
    bssids: tuple[str, ...] = ()
    security: str = "wpa2"

    def faults(self, network: Network, learned: bytes = b"") -> tuple[str, ...]:
        """In what *network* is not as expected, a sentence each."""
        found = []
        allowed = self.ssids or ((learned,) if learned else ())
        if allowed and network.ssid not in allowed:
            found.append(f"the SSID {shown(network.ssid)} is not expected")
        if self.bssids and not any(fnmatchcase(network.bssid, one) for one in self.bssids):
            found.append(f"the BSSID {network.bssid} is not expected")
        if network.security.grade < GRADES[self.security]:
            found.append(f"the security is {network.security.text}, below {self.security}")
        return tuple(found)

    def text(self, learned: bytes) -> str:
        """The rule in one line."""
        ssids = " or ".join(map(shown, self.ssids)) or (f"{shown(learned)} (learned)" if learned else "any")
        bssids = " or ".join(self.bssids) or "any"
        security = "any" if self.security == "any" else f"{self.security} or better"
        return f"SSID {ssids}, BSSID {bssids}, security {security}"


class Verdict(NamedTuple):
    """
    What a look means.

    *faults* is empty when all is well; None: no judgement yet, because the access point has not let us in.
    """

    faults: tuple[str, ...] | None
    learned: bool = False


class Watch:
    """
    What was seen on one interface: *learned*, the first SSID, when the rule names none, and *last*, the
    network that was as expected. *memory* is what :meth:`memory` gave to an earlier run.
    """

    def __init__(self, rule: Rule, memory: str) -> None:
        self._rule = rule
        learned, self.last = _recall(memory)
        self.learned = b"" if rule.ssids else learned

    def see(self, network: Network, authorised: bool) -> Verdict:
        """
        The interface is associated with *network*.

        One that is not expected is a fault at once: a twin has what it needs to guess the passphrase before
        it lets anybody in. One that is expected counts only when it has let us in.
        """
        faults = self._rule.faults(network, self.learned)
        if faults:
            return Verdict(faults)
        if not authorised:
            return Verdict(None)
        learns = not self._rule.ssids and not self.learned
        if learns:
            self.learned = network.ssid
        self.last = network
        return Verdict((), learns)

    def describe(self, network: Network, verdict: Verdict, authorised: bool) -> str:
        """What a person needs to judge the change."""
        lines = list(verdict.faults or ())
        lines.append(f"now: {describe(network)}")
        if not authorised:
            lines.append("it has not let the device in (yet): no keys were agreed on")
        lines.append(f"before: {describe(self.last) if self.last else 'not known'}")
        lines.append(f"expected: {self._rule.text(self.learned)}")
        return "\n".join(lines)

    def memory(self) -> str:
        """What is to be remembered."""
        last = None
        if self.last is not None:
            last = {
                "ssid": self.last.ssid.hex(),
                "bssid": self.last.bssid,
                "frequency": self.last.frequency,
                "security": [self.last.security.grade, self.last.security.text],
            }
        return json.dumps({"learned": self.learned.hex(), "last": last})


@dataclass(slots=True)
class Absence:
    """The interface is on no network: *since* when, and by how much the device had booted then."""

    since: float
    reason: str

    def due(self, grace: float) -> float:
        """When it has lasted too long."""
        return max(self.since + grace, BOOT_S if self.since < BOOT_S else 0.0)


def describe(network: Network) -> str:
    """A network in one line."""
    signal = "" if network.signal is None else f", {network.signal:g} dBm"
    return (
        f"SSID {shown(network.ssid)}{_hex(network.ssid)}, BSSID {network.bssid}, "
        f"{network.frequency} MHz{signal}, {network.security.text}"
    )


def reason(number: int, by_access_point: bool) -> str:
    """Why a connection ended, from IEEE 802.11's number. Empty: nothing was told."""
    who = "by the access point" if by_access_point else "by the device"
    if not number:
        return f"ended {who}" if by_access_point else ""
    meaning = _REASONS.get(number)
    return f"ended {who}, reason {number}" + (f" ({meaning})" if meaning else "")


def shown(ssid: bytes) -> str:
    """*ssid* as a person may see it, and as a check file has it."""
    if not ssid:
        return "(hidden)"
    text = "".join(map(_shown, ssid.decode("utf-8", "surrogateescape")))
    return f'"{text}"' if " " in text else text


def ssids(text: str) -> tuple[bytes, ...]:
    """
    The SSIDs of a variable, apart by white space; the opposite of :func:`shown`.

    Raises ValueError with a reason for the user.
    """
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        word = _WORD.match(text, at)
        if word is None:
            raise ValueError(
                f"{text[at : at + 40]!r}: an SSID with a space is written in double quotes, "
                r"a double quote \042, a backslash \134, any other byte \ooo, in octal"
            )
        ssid = _unescaped(word[1] or word[2])
        if len(ssid) > SSID_BYTES:
            raise ValueError(
                f"{word[0].strip()!r} has {len(ssid)} bytes, and an SSID has {SSID_BYTES} at most"
            )
        found.append(ssid)
        at = word.end()
    return tuple(found)


def bssids(text: str) -> tuple[str, ...]:
    """Addresses of access points, apart by white space. Raises ValueError with a reason for the user."""
    found = []
    for word in text.split():
        address = word.lower().replace("-", ":")
        bytes_named = address.count(":") + 1
        if not _BSSID.fullmatch(address) or (bytes_named != 6 and "*" not in address):
            raise ValueError(f"{word[:40]!r} is no address as 02:00:00:00:01:00, or 02:00:00:* for many")
        found.append(address)
    return tuple(found)


def _shown(character: str) -> str:
    if character.isprintable() and character not in '\\"' and (character == " " or not character.isspace()):
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def _hex(ssid: bytes) -> str:
    """Letters of another alphabet may look like those of ours."""
    return "" if ssid.isascii() else f" (hex {ssid.hex()})"


def _unescaped(word: str) -> bytes:
    data = word.encode("utf-8", "surrogateescape")
    return re.sub(rb"\\([0-3][0-7]{2})", lambda octal: bytes([int(octal[1], 8)]), data)


def _recall(memory: str) -> tuple[bytes, Network | None]:
    """What :meth:`Watch.memory` wrote; nothing of it when it is something else."""
    try:
        found = json.loads(memory)
        learned, last = bytes.fromhex(found["learned"]), found["last"]
        if last is None:
            return learned, None
        grade, text = last["security"]
        security = wifisecurity.Security(int(grade), str(text))
        ssid, bssid = bytes.fromhex(last["ssid"]), str(last["bssid"])
        return learned, Network(ssid, bssid, int(last["frequency"]), security)
    except (KeyError, TypeError, ValueError):
        return b"", None
