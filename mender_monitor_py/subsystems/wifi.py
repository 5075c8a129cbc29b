"""
The network that a wireless interface is on: another one than expected, or none.

nl80211 tells when a connection begins or ends; then, and each 30 seconds, the check looks. No event says
which network it is, and with most drivers a roam is an end and a beginning.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import closing

from mender_monitor_py import nl80211, wifiwatch
from mender_monitor_py.duration import seconds
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import wireless
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.wireless import Look, WirelessEvents
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.nl80211 import Event, Family, Network
from mender_monitor_py.pidwatch import lifetime
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report
from mender_monitor_py.subsystems.fields import choice, yes_no
from mender_monitor_py.wifiwatch import Absence, Rule, Verdict, shown

LOOK_S = 30.0
SETTLE_S = 0.02  # one change is several events
HANDSHAKE_S = 0.5  # from look to look while keys are agreed on, which no event ends; doubled each time

# The findings, as the recorder knows them.
NETWORK, CONNECTED = "network", "connected"

_NEWS = {nl80211.CONNECT, nl80211.ROAM, nl80211.DISCONNECT}
_INTERFACES = {nl80211.NEW_INTERFACE, nl80211.DEL_INTERFACE, nl80211.SET_INTERFACE}


def _name(text: str) -> str:
    # dev_valid_name() of the kernel
    if not re.fullmatch(r"[^\s/:]{1,15}", text) or text in (".", ".."):
        raise ValueError(f"{text[:40]!r} is not the name of a network interface")
    return text


_INTERFACE = Field("WIFI_INTERFACE", _name, "the wireless interface", default="wlan0", argument="INTERFACE")
_SSID = Field("WIFI_SSID", wifiwatch.ssids, "networks it may be on; empty: the first one that is seen")
_BSSID = Field("WIFI_BSSID", wifiwatch.bssids, "addresses of their access points; empty: any")
_SECURITY = Field("WIFI_SECURITY", choice("wpa2", "wpa3", "any"), "what they are at least", default="wpa2")
_REQUIRE = Field("WIFI_REQUIRE", yes_no, "yes: it has to be connected", default="no")
_GRACE = Field("WIFI_GRACE", seconds, "how long it may be disconnected", default="60s")


class WifiCheck(Check):
    """A wireless interface is on another network than expected, or on none."""

    subsystem = "wifi"
    summary = "a wireless interface that changes its network"
    fields = (_INTERFACE, _SSID, _BSSID, _SECURITY, _REQUIRE, _GRACE)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self.interface: str = definition.value(_INTERFACE)
        self.rule = Rule(definition.value(_SSID), definition.value(_BSSID), definition.value(_SECURITY))
        self.required: bool = definition.value(_REQUIRE)
        self.grace: float = definition.value(_GRACE)

    async def run(self, host: Host, report: Report) -> None:
        with closing(_Watch(self, host, report)) as watch:
            await watch.run()


class _Watch:
    """One run of the check."""

    def __init__(self, check: WifiCheck, host: Host, report: Report) -> None:
        self._check = check
        self._clock = host.clock
        self._report = report
        self._watch = wifiwatch.Watch(check.rule, report.memory)
        self._wake = asyncio.Event()
        self._events: WirelessEvents | None = None
        self._ifindex = 0
        self._absence: Absence | None = None
        self._ended = ""
        self._seen: Network | None = None
        self._handshake = 0.0

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                look = await asyncio.to_thread(wireless.look, self._check.interface)
                if look.family is not None and self._listen(look.family):
                    continue  # what happened before the first event could come
                self._judge(look)
            except UnknownError as error:
                self._report.unknown(str(error))
            await self._report.pause(self._patience(), self._wake)
            await asyncio.sleep(SETTLE_S)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    # What the kernel tells

    def _listen(self, family: Family) -> bool:
        """Have events told; whether that is new."""
        if self._events is not None and self._events.family == family:
            return False
        self.close()
        try:
            self._events = WirelessEvents(family, self._happened)
        except OSError as error:
            self._events = None
            self._report.note("events", f"none of nl80211, a look each {LOOK_S:g} s: {error.strerror}")
            return False
        self._report.note("events", "")
        return True

    def _happened(self, event: Event | None) -> None:
        if event is None or event.command in _INTERFACES:
            self._wake.set()
        elif event.command in _NEWS and event.ifindex == self._ifindex:
            if event.command == nl80211.DISCONNECT:
                self._ended = wifiwatch.reason(event.reason, event.by_access_point)
            else:
                self._handshake = 0.0
            self._wake.set()

    def _patience(self) -> float:
        """Seconds until the next look, should nothing happen."""
        patience = LOOK_S
        if self._handshake:
            patience = min(self._handshake, patience)
        if self._check.required and self._absence is not None:
            left = self._absence.due(self._check.grace) - self._clock.boottime()
            if left > 0:
                patience = min(left, patience)
        return patience

    # Judging

    def _judge(self, look: Look) -> None:
        self._ifindex = look.ifindex
        if look.ifindex == 0 and not self._check.required:
            self._report.unknown(look.reason)
        elif look.network is not None and not look.network.ssid:
            self._report.unknown(f"the driver of {self._check.interface} does not tell the SSID")
        else:
            self._report.known()
            if look.network is not None:
                self._judge_network(look.network, look.authorised)
        self._handshake = min(2 * self._handshake or HANDSHAKE_S, LOOK_S) if self._waits(look) else 0.0
        self._judge_connection(look)
        self._seen = look.network
        self._note(look.network)

    @staticmethod
    def _waits(look: Look) -> bool:
        return look.network is not None and not look.authorised

    def _judge_network(self, network: Network, authorised: bool) -> None:
        verdict = self._watch.see(network, authorised)
        if verdict.faults is None:
            return
        if verdict.learned:
            self._report.remember(self._watch.memory())
        bad = bool(verdict.faults)
        # What stays as it is, is no news, and is not to be written again.
        if bad != self._report.is_bad(NETWORK) or network != self._seen:
            self._report.observe(self._network(network, verdict, authorised), self._watch.memory())

    def _judge_connection(self, look: Look) -> None:
        if look.network is not None and look.authorised:
            self._absence, self._ended = None, ""
            if self._report.is_bad(CONNECTED):
                self._report.observe(self._connected(look.network))
            return
        now = self._clock.boottime()
        reason = look.reason or "the access point has not let the device in"
        if self._absence is None:
            self._absence = Absence(now, reason)
        self._absence.reason = reason
        late = now >= self._absence.due(self._check.grace)
        if self._check.required and late and not self._report.is_bad(CONNECTED):
            self._report.observe(self._disconnected(self._absence))

    def _note(self, network: Network | None) -> None:
        text = f"{shown(network.ssid)}, {network.bssid}, {network.security.text}" if network else ""
        self._report.note("network", text)
        if learned := self._watch.learned:
            self._report.note("learned", f"{shown(learned)}: the first network that was seen")

    # What it is called

    def _network(self, network: Network, verdict: Verdict, authorised: bool) -> Observation:
        interface = self._check.interface
        bad = bool(verdict.faults)
        text = self._watch.describe(network, verdict, authorised)
        return Observation(
            level=self._check.settings.default_alert_level if bad else OK,
            name=f"Wi-Fi access point changed on {interface}",
            subject=Subject(interface, "wifi", "changed" if bad else "expected"),
            details=Details(text),
            key=NETWORK,
        )

    def _disconnected(self, absence: Absence) -> Observation:
        lines = [f"{absence.reason}, for {lifetime(self._clock.boottime() - absence.since)}"]
        if self._ended:
            lines.append(f"the last connection was {self._ended}")
        if self._watch.last is not None:
            lines.append(f"it was on: {wifiwatch.describe(self._watch.last)}")
        return self._connection(self._check.settings.default_alert_level, "disconnected", "\n".join(lines))

    def _connected(self, network: Network) -> Observation:
        return self._connection(OK, "connected", f"it is on: {wifiwatch.describe(network)}")

    def _connection(self, level: str, status: str, text: str) -> Observation:
        interface = self._check.interface
        return Observation(
            level=level,
            name=f"Wi-Fi disconnected on {interface}",
            subject=Subject(interface, "wifi", status),
            details=Details(text),
            key=CONNECTED,
        )


CHECK = WifiCheck
