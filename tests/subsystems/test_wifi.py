"""
The `wifi` check with what a look may show.

On real radios it runs in tests/system/test_wifi.py.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from mender_monitor_py import wifiwatch
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.errors import DefinitionError, UnknownError
from mender_monitor_py.host import wireless
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.wireless import Look
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.nl80211 import Family, Network
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import wifi
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.wifi import WifiCheck
from mender_monitor_py.wifisecurity import Security
from tests.fakes.judging import JudgingReport
from tests.fakes.watched import started as watched

CHANGED, DISCONNECTED = "Wi-Fi access point changed on wlan0", "Wi-Fi disconnected on wlan0"
GONE = Look(None, reason="there is no wireless interface wlan0")
IDLE = Look(None, 3, reason="wlan0 is not connected")


def on(ssid: bytes, bssid: str = "02:00:00:00:00:00", *, authorised: bool = True, grade: int = 2) -> Look:
    return Look(None, 3, Network(ssid, bssid, 2412, Security(grade, "WPA2 (PSK)"), -40.0), authorised)


class Radio:
    """What the next look shows, and how many there were."""

    def __init__(self) -> None:
        self.shows: Look | UnknownError = GONE
        self.looks = 0

    def look(self, name: str) -> Look:
        assert name == "wlan0"
        self.looks += 1
        if isinstance(self.shows, UnknownError):
            raise self.shows
        return self.shows


@pytest.fixture
def radio(monkeypatch):
    made = Radio()
    monkeypatch.setattr(wireless, "look", made.look)
    monkeypatch.setattr(wifi, "LOOK_S", 0.02)
    monkeypatch.setattr(wifi, "SETTLE_S", 0.0)
    return made


def check(**values: str) -> WifiCheck:
    return WifiCheck(Definition(CheckId("wifi", "wlan0"), values), Settings())


async def looks(radio: Radio, report: JudgingReport) -> None:
    """The check looks twice more: what it had to tell is told."""
    wanted = radio.looks + 2
    async with asyncio.timeout(30):
        while radio.looks < wanted:
            await asyncio.sleep(0.005)  # a look tells nobody that it was made
    assert report


def test_a_changed_network_is_one_alert_that_ends_on_an_allowed_one(paths, radio):
    async def scenario():
        radio.shows = on(b"home")
        async with watched(paths, check(WIFI_SSID="home other"), JudgingReport()) as report:
            await report.until(lambda: report.reason == "")
            radio.shows = on(b"evil", "02:00:00:00:09:00")
            await report.until(lambda: report.open == [CHANGED])
            text = report.last(CHANGED).details.description
            assert text == (
                "the SSID evil is not expected\n"
                "now: SSID evil, BSSID 02:00:00:00:09:00, 2412 MHz, -40 dBm, WPA2 (PSK)\n"
                "before: SSID home, BSSID 02:00:00:00:00:00, 2412 MHz, -40 dBm, WPA2 (PSK)\n"
                "expected: SSID home or other, BSSID any, security wpa2 or better"
            )
            radio.shows = IDLE  # it is not over
            await looks(radio, report)
            radio.shows = on(b"other", authorised=False)
            await looks(radio, report)
            assert report.open == [CHANGED]
            radio.shows = on(b"other")
            await report.until(lambda: not report.open)
            assert [(a.level, a.subject.status) for a in report.alerts] == [
                (CRITICAL, "changed"),
                (OK, "expected"),
            ]

    asyncio.run(scenario())


def test_what_was_learned_outlives_the_daemon(paths, radio):
    async def scenario():
        radio.shows = on(b"home")
        async with watched(paths, check(), JudgingReport()) as first:
            await first.until(lambda: first.notes.get("learned") == "home: the first network that was seen")
        radio.shows = on(b"evil")
        async with watched(paths, check(), JudgingReport(first.memory)) as second:
            await second.until(lambda: second.open == [CHANGED])
            assert "before: SSID home" in second.last(CHANGED).details.description
            assert second.notes["network"] == "evil, 02:00:00:00:00:00, WPA2 (PSK)"

    asyncio.run(scenario())


def test_no_interface_is_not_known_and_recovers(paths, radio):
    async def scenario():
        async with watched(paths, check(WIFI_SSID="home"), JudgingReport()) as report:
            await report.until(lambda: report.reason == "there is no wireless interface wlan0")
            radio.shows = UnknownError("the Wi-Fi driver of wlan0 does not answer")
            await report.until(lambda: "does not answer" in report.reason)
            radio.shows = on(b"")
            await report.until(lambda: report.reason == "the driver of wlan0 does not tell the SSID")
            radio.shows = on(b"home")
            await report.until(lambda: report.reason == "")
            assert report.alerts == []

    asyncio.run(scenario())


def test_a_required_connection_that_is_missing(paths, radio, monkeypatch):
    async def scenario():
        monkeypatch.setattr(wifiwatch, "BOOT_S", 0.0)
        one = check(WIFI_SSID="home", WIFI_REQUIRE="yes", WIFI_GRACE="0")
        async with watched(paths, one, JudgingReport(), clock=Hands()) as report:
            await report.until(lambda: report.open == [DISCONNECTED])
            assert report.reason == ""
            text = report.last(DISCONNECTED).details.description
            assert text == "there is no wireless interface wlan0, for less than a second"
            radio.shows = on(b"home", authorised=False)
            await looks(radio, report)
            assert report.open == [DISCONNECTED]
            radio.shows = on(b"home")
            await report.until(lambda: not report.open)
            radio.shows = IDLE
            await report.until(lambda: report.open == [DISCONNECTED])
            assert "it was on: SSID home" in report.last(DISCONNECTED).details.description
            # Another network is a connection, and another finding.
            radio.shows = on(b"evil")
            await report.until(lambda: report.open == [CHANGED])

    asyncio.run(scenario())


def test_it_may_be_away_for_the_grace_and_where_it_is_not_required(paths, radio):
    async def scenario():
        radio.shows = IDLE
        async with (
            watched(paths, check(WIFI_REQUIRE="yes", WIFI_GRACE="1h"), JudgingReport()) as patient,
            watched(paths, check(), JudgingReport()) as free,
        ):
            await looks(radio, patient)
            await looks(radio, free)
            assert patient.alerts == free.alerts == []
            assert patient.reason == free.reason == ""

    asyncio.run(scenario())


class Hands(Clock):
    """A clock that stands still until somebody sets it."""

    at = 1000.0

    def boottime(self) -> float:
        return self.at


def test_the_grace_begins_with_each_disconnect(paths, radio):
    async def scenario():
        clock, report = Hands(), JudgingReport()
        one = check(WIFI_REQUIRE="yes", WIFI_GRACE="60")
        radio.shows = on(b"home")
        async with watched(paths, one, report, clock=clock):
            for _ in range(3):
                radio.shows = IDLE
                await looks(radio, report)
                clock.at += 59
                await looks(radio, report)
                radio.shows = on(b"home")
                await looks(radio, report)
            assert report.alerts == []
            radio.shows = IDLE
            await looks(radio, report)
            clock.at += 60
            await report.until(lambda: report.open == [DISCONNECTED])
            assert "for 1 min\n" in report.last(DISCONNECTED).details.description

    asyncio.run(scenario())


def test_a_network_that_stays_is_observed_once(paths, radio):
    """What is seen again and again is not written again and again; the signal is no change."""

    async def scenario():
        radio.shows = on(b"evil")
        async with watched(paths, check(WIFI_SSID="home"), JudgingReport()) as report:
            await report.until(lambda: report.open == [CHANGED])
            for signal in (-41.0, -70.0):
                assert isinstance(radio.shows, Look) and radio.shows.network is not None
                seen = radio.shows.network
                weaker = Network(seen.ssid, seen.bssid, seen.frequency, seen.security, signal)
                radio.shows = radio.shows._replace(network=weaker)
                await looks(radio, report)
            assert report.states[wifi.NETWORK].repeats == 0

    asyncio.run(scenario())


def test_on_this_machine(paths, monkeypatch):
    """Whatever its kernel has: an interface that is not there is not known, with the reason."""
    monkeypatch.setattr(wifi, "LOOK_S", 0.02)

    async def scenario():
        one = check(WIFI_INTERFACE="wlan-missing")
        async with watched(paths, one, JudgingReport()) as report:
            await report.until(lambda: report.reason != "starting")
            reasons = ("there is no wireless interface wlan-missing", "this kernel has no nl80211")
            assert report.reason.startswith(reasons)
            assert report.alerts == []

    asyncio.run(scenario())


def test_without_events_it_looks_and_says_so(paths, radio):
    """The kernel refuses a group that there is not."""

    async def scenario():
        radio.shows = on(b"home")._replace(family=Family(1, {"mlme": 2**31 - 1}))
        async with watched(paths, check(WIFI_SSID="home"), JudgingReport()) as report:
            await report.until(
                lambda: report.notes.get("events", "").startswith("none of nl80211, a look each")
            )
            radio.shows = on(b"evil")
            await report.until(lambda: report.open == [CHANGED])

    asyncio.run(scenario())


def test_an_ssid_in_a_check_file_is_what_bash_has(paths):
    """Backslashes and double quotes within single quotes reach the check as they are written."""
    file = paths.monitor_d / "available/wifi_wlan0.sh"
    file.parent.mkdir(parents=True)
    file.write_text("""WIFI_SSID='plant-floor "Guest WLAN" caf\\303\\251'\n""")
    definition = Catalog(paths, Settings()).load_now(CheckId("wifi", "wlan0"))
    assert WifiCheck(definition, Settings()).rule.ssids == (
        b"plant-floor",
        b"Guest WLAN",
        "caf\u00e9".encode(),
    )


def test_the_shipped_check(paths):
    shipped = Path(wifi.__file__).parents[2] / "monitor-available/wifi_wlan0.sh"
    file = paths.monitor_d / "available/wifi_wlan0.sh"
    file.parent.mkdir(parents=True)
    file.write_text(re.sub("(?m)^# (WIFI_)", r"\1", shipped.read_text()))
    one = WifiCheck(Catalog(paths, Settings()).load_now(CheckId("wifi", "wlan0")), Settings())
    assert (one.interface, one.rule.security, one.required, one.grace) == ("wlan0", "wpa2", True, 60)
    assert one.rule.ssids[1] == b"Guest WLAN"
    assert one.rule.bssids == ("02:00:00:00:01:00", "02:00:00:00:02:*")


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"WIFI_INTERFACE": "wlan 0"}, "name of a network interface"),
        ({"WIFI_INTERFACE": "a-name-that-is-too-long"}, "name of a network interface"),
        ({"WIFI_SSID": "x" * 33}, "33 bytes"),
        ({"WIFI_SSID": '"half'}, "double quotes"),
        ({"WIFI_BSSID": "plant-floor"}, "no address"),
        ({"WIFI_SECURITY": "wep"}, "wpa2 wpa3 any"),
        ({"WIFI_REQUIRE": "maybe"}, "yes no"),
        ({"WIFI_GRACE": "soon"}, "number of seconds"),
    ],
)
def test_values_that_cannot_be_used(values, wrong):
    with pytest.raises(DefinitionError, match=wrong):
        check(**values)
