"""
Runs in the virtual machine: the `wifi` check in several settings, on one station, while its network changes.

Prints a JSON object: scenario, and what went wrong (empty: nothing).
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from mender_monitor_py import wifiwatch
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.wifi import WifiCheck
from mender_monitor_py.wifiwatch import shown
from tests.fakes.judging import JudgingReport
from tests.system.wifi_air import AP, POINTS, RAW_SSID, STA, Air

CHANGED, DISCONNECTED = f"Wi-Fi access point changed on {STA}", f"Wi-Fi disconnected on {STA}"
KNOWN = f"{POINTS['floor'].bssid} {POINTS['floor2'].bssid}"
CHECKS = {
    "name": {"WIFI_SSID": "plant-floor"},
    "listed": {"WIFI_SSID": "plant-floor", "WIFI_BSSID": KNOWN},
    "learned": {},
    "required": {"WIFI_SSID": "plant-floor", "WIFI_REQUIRE": "yes", "WIFI_GRACE": "2s"},
    "patient": {"WIFI_SSID": "plant-floor", "WIFI_REQUIRE": "yes", "WIFI_GRACE": "1h"},
    "wpa3": {"WIFI_SSID": "plant-floor", "WIFI_SECURITY": "wpa3"},
    "any": {"WIFI_SSID": "plant-floor", "WIFI_SECURITY": "any"},
    "odd": {"WIFI_SSID": f"plant-floor {shown(RAW_SSID)} dark-floor"},
    "point": {"WIFI_INTERFACE": AP},
    "absent": {"WIFI_INTERFACE": "wlan9"},
}


class Station:
    """The radios, and the reports of the checks."""

    def __init__(self, air: Air) -> None:
        self.air = air
        self.reports = {name: JudgingReport() for name in CHECKS}

    async def on(self, name: str) -> None:
        """Connect to an access point, and wait until every check has seen it and judged."""
        await asyncio.to_thread(self.air.connect, name)
        await self.seen(name)

    async def seen(self, name: str) -> None:
        for report in self.watching():
            await report.until(partial(_notes, report, POINTS[name].bssid))

    def watching(self) -> list[JudgingReport]:
        return [self.reports[name] for name in CHECKS if name not in ("point", "absent")]

    async def open(self, *names: str) -> None:
        """Wait until these checks, and no others, have the alert of a changed network."""
        for name, report in self.reports.items():
            wanted = [CHANGED] if name in names else []
            await report.until(partial(_is_open, report, wanted))

    def levels(self, name: str) -> list[str]:
        return [alert.level for alert in self.reports[name].alerts]

    def text(self, name: str) -> str:
        return self.reports[name].alerts[-1].details.description


def changes(report: JudgingReport) -> int:
    """How often it was told that the network is another, and that it is the right one again."""
    return sum(alert.name == CHANGED for alert in report.alerts)


def _notes(report: JudgingReport, bssid: str) -> bool:
    return bssid in report.notes.get("network", "")


def _is_off(report: JudgingReport) -> bool:
    return not report.notes["network"]


def _is_open(report: JudgingReport, names: list[str]) -> bool:
    return report.open == names


async def connect(s: Station) -> None:
    """The first network is the expected one, and is learned where none is named."""
    await s.reports["point"].until(lambda: "access point" in s.reports["point"].reason)
    await s.reports["absent"].until(
        lambda: s.reports["absent"].reason == "there is no wireless interface wlan9"
    )
    await s.on("floor")
    await s.open("wpa3")
    learned = s.reports["learned"]
    await learned.until(lambda: learned.notes.get("learned", "").startswith("plant-floor:"))
    assert json.loads(learned.memory)["learned"] == b"plant-floor".hex()
    assert "the security is WPA2 (PSK), below wpa3" in s.text("wpa3")


async def roam(s: Station) -> None:
    """Another access point of the same SSID is no news, whether it is listed or none is."""
    before = {name: changes(report) for name, report in s.reports.items()}
    await asyncio.to_thread(s.air.roam, "floor2")
    await s.seen("floor2")
    await s.open("wpa3")
    # Where a connection is required, a slow exchange of keys may be longer than the grace.
    assert before == {name: changes(report) for name, report in s.reports.items()}


async def evil_twin(s: Station) -> None:
    """The right SSID and passphrase from an access point that is not listed."""
    await s.on("twin")
    await s.open("listed", "wpa3")
    text = s.text("listed")
    assert f"the BSSID {POINTS['twin'].bssid} is not expected" in text
    lines = text.splitlines()
    assert f"now: SSID plant-floor, BSSID {POINTS['twin'].bssid}, 2437 MHz, -30 dBm, WPA2 (PSK)" in lines
    assert f"before: SSID plant-floor, BSSID {POINTS['floor2'].bssid}, 2437 MHz" in text
    assert (
        lines[-1]
        == f"expected: SSID plant-floor, BSSID {KNOWN.replace(' ', ' or ')}, security wpa2 or better"
    )
    await s.on("floor")
    await s.open("wpa3")
    assert s.levels("listed") == [CRITICAL, OK]


async def open_network(s: Station) -> None:
    """The right SSID without encryption."""
    await s.on("open")
    await s.open("name", "listed", "learned", "required", "patient", "wpa3", "odd")
    assert s.text("name").startswith("the security is open, below wpa2\n")
    assert s.levels("any") == []
    await s.on("floor2")
    await s.open("wpa3")
    assert s.levels("name") == [CRITICAL, OK]


async def other_ssid(s: Station) -> None:
    """Another network, also where the expected one was learned."""
    await s.on("cafe")
    await s.open("name", "listed", "learned", "required", "patient", "wpa3", "odd", "any")
    text = s.text("learned")
    assert 'the SSID "Café upstairs" is not expected' in text
    assert 'now: SSID "Café upstairs" (hex 436166c3a9207570737461697273), BSSID' in text
    assert "before: SSID plant-floor, BSSID" in text
    assert "expected: SSID plant-floor (learned), BSSID any" in text
    await s.on("floor")
    await s.open("wpa3")


async def odd_ssid(s: Station) -> None:
    """32 bytes of any kind: shown escaped, expected as they are shown."""
    await s.on("raw")
    await s.open("name", "listed", "learned", "required", "patient", "wpa3", "any")
    text = s.text("name")
    assert r"\027\042\134 \377\376\342\200\256!" in text
    assert text.replace("\n", "").isprintable()


async def hidden_ssid(s: Station) -> None:
    """A network that hides its SSID is known to who is on it."""
    await s.on("hidden")
    await s.open("name", "listed", "learned", "required", "patient", "wpa3", "any")
    assert s.reports["odd"].notes["network"].startswith("dark-floor, ")
    await s.on("floor")
    await s.open("wpa3")


async def security(s: Station) -> None:
    """WPA is below WPA2; WPA3 alone is wpa3, a mixture is not."""
    await s.on("wpa")
    await s.open("name", "listed", "learned", "required", "patient", "wpa3", "odd")
    assert "the security is WPA (PSK), below wpa2" in s.text("name")
    await s.on("wpa3")
    await s.open("listed")
    await s.on("transition")
    await s.open("listed", "wpa3")
    assert "the security is WPA2/WPA3 (PSK SAE), below wpa3" in s.text("wpa3")
    await s.on("owe")
    await s.open("name", "listed", "learned", "required", "patient", "wpa3", "odd", "any")
    assert "the security is OWE: encrypted, for anybody, below wpa2" in s.text("name")
    await s.on("floor")
    await s.open("wpa3")


async def wrong_key(s: Station) -> None:
    """An access point that lets nobody in is told where it is not listed, and is no connection."""
    required = s.reports["required"]
    await asyncio.to_thread(s.air.choose, "wrong")
    await s.reports["listed"].until(lambda: CHANGED in s.reports["listed"].open)
    assert "it has not let the device in (yet)" in s.text("listed")
    await required.until(lambda: DISCONNECTED in required.open)
    assert s.reports["name"].open == s.reports["learned"].open == []
    await s.on("floor")
    await s.open("wpa3")


async def disconnected_for_a_moment(s: Station) -> None:
    """Shorter than the grace."""
    await asyncio.to_thread(s.air.disconnect)
    for report in s.watching():
        await report.until(partial(_is_off, report))
    await asyncio.to_thread(s.air.reconnect)
    await s.seen("floor")
    await s.open("wpa3")


async def disconnected(s: Station) -> None:
    """Longer than the grace: where the connection is required. A radio that is switched off is the reason."""
    required = s.reports["required"]
    await asyncio.to_thread(s.air.block, True)
    await required.until(lambda: required.open == [DISCONNECTED])
    text = s.text("required")
    assert text.startswith("the radio is switched off (rfkill, by software), for ")
    assert "it was on: SSID plant-floor" in text
    await asyncio.to_thread(s.air.block, False)
    await s.seen("floor")
    await s.open("wpa3")
    assert s.levels("required")[-2:] == [CRITICAL, OK]
    assert all(alert.name == CHANGED for alert in s.reports["patient"].alerts)


async def unplugged(s: Station) -> None:
    """No interface: not known, or disconnected where it is required. One with its name counts again."""
    required, name = s.reports["required"], s.reports["name"]
    await asyncio.to_thread(s.air.unplug)
    await name.until(lambda: name.reason == f"there is no wireless interface {STA}")
    await required.until(lambda: required.open == [DISCONNECTED])
    assert s.text("required").startswith(f"there is no wireless interface {STA}, for")
    await asyncio.to_thread(s.air.plug)
    await name.until(lambda: name.reason == "")
    await s.on("floor")
    await s.open("wpa3")


SCENARIOS: tuple[Callable[[Station], Awaitable[None]], ...] = (
    connect, roam, evil_twin, open_network, other_ssid, odd_ssid, hidden_ssid, security, wrong_key,
    disconnected_for_a_moment, disconnected, unplugged,
)  # fmt: skip


async def play(folder: Path) -> dict[str, str]:
    """Every scenario, in order."""
    wifiwatch.BOOT_S = 0.0  # this machine has just booted
    results = {}
    with Air() as air:
        station = Station(air)
        host = Host(Paths(folder), Clock())
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(
                WifiCheck(
                    Definition(CheckId("wifi", name), {"WIFI_INTERFACE": STA, **values}), Settings()
                ).run(host, station.reports[name])
            )
            for name, values in CHECKS.items()
        ]
        for scenario in SCENARIOS:
            try:
                await scenario(station)
                failure = ""
            except Exception:  # noqa: BLE001 - told to who reads the result
                failure = traceback.format_exc()
            results[scenario.__name__] = failure
        for task in tasks:
            if task.done():
                results["checks"] = f"{task.exception()!r}"
            task.cancel()
        await asyncio.wait(tasks)
        await host.aclose()
    return results


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        json.dump(asyncio.run(play(Path(name))), sys.stdout)


if __name__ == "__main__":
    main()
