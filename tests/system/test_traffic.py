"""Transfers of a booted device over a cable to a neighbour, watched by the daemon in its unit."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.network import TRANSFER, Neighbour
from tests.system.product import Site, site

NAME = "High data transfer on wwan0"
KIB = 1024


class Uplink:
    """The cable of a device, and the neighbour behind it."""

    def __init__(self, site: Site, neighbour: Neighbour) -> None:
        self.site = site
        self._neighbour = neighbour

    def ip(self, command: str) -> str:
        """Run *command* of ip(8) in the device's network."""
        words = ["ip", "-n", self.site.device.name, *command.split()]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def plug(self) -> None:
        self._neighbour.connect("wwan0", here=self.ip)

    def transfer(self, unit: str, address: str, sent: int) -> None:
        """A service of the device sends so many bytes, and stays."""
        program = shlex.join(["/usr/bin/python3", "-c", TRANSFER, address, str(sent), "0"])
        self.site.device.run(
            f"systemd-run --unit={unit} --property=StandardOutput=file:/run/{unit} {program}"
        )
        self.site.device.wait(f"grep -q . /run/{unit}")

    def reason(self) -> str:
        """Why the shipped check does not know."""
        checks = self.site.status()["checks"]
        return next(str(c["error"]) for c in checks if (c["subsystem"], c["name"]) == ("traffic", "uplink"))


@pytest.fixture
def uplink(tmp_path: Path) -> Iterator[Uplink]:
    """A device of its own, which is switched off and on."""
    with site(tmp_path) as here, Neighbour() as neighbour:
        made = Uplink(here, neighbour)
        made.plug()
        yield made


def test_the_shipped_check_waits_for_a_default_route(uplink: Uplink) -> None:
    here = uplink.site
    here.device.run("mender-monitorctl enable traffic uplink")
    here.device.wait_until(lambda: here.state("traffic", "uplink") == "unknown")
    assert uplink.reason() == "there is no default route"
    uplink.ip("route add default via 192.0.2.2")
    here.device.wait_until(lambda: here.state("traffic", "uplink") == "OK")


def test_the_window_outlives_the_daemon_and_the_device(uplink: Uplink) -> None:
    """Three parts of too much: before a restart of the daemon, while it is away, and after a reboot."""
    here = uplink.site
    values = ("TRAFFIC_INTERFACE=wwan0", "TRAFFIC_INTERVAL=1s", "TRAFFIC_LIMIT=1M")
    here.watch("traffic", "wwan", *values)
    uplink.transfer("first", "192.0.2.2", 300 * KIB)
    here.device.run("systemctl stop mender-monitor")
    uplink.transfer("second", "2001:db8:2::2", 300 * KIB)
    here.device.run("systemctl start mender-monitor")
    here.device.wait_until(lambda: here.state("traffic", "wwan") == "OK")

    here.device.power_off()
    uplink.ip("link delete wwan0")
    uplink.plug()
    here.device.boot()
    here.device.wait_until(lambda: here.state("traffic", "wwan") == "OK")
    here.expect(NAME)
    # All of it is sent when the daemon looks next, and not the part by which the limit is passed.
    here.device.run("systemctl kill --signal=STOP mender-monitor")
    uplink.transfer("third", "192.0.2.2", 600 * KIB)
    here.device.run("systemctl kill --signal=CONT mender-monitor")

    (alert,) = here.expect(NAME, "CRITICAL")
    text = alert["subject"]["details"]["description"]
    assert "sent over wwan0 within 1h, limit 1.0M" in text
    assert "1. /usr/bin/python3.11: 600K sent" in text
    assert "   systemd unit: third.service" in text
    here.device.run(f"mender-monitorctl create traffic wwan {shlex.join(values)} TRAFFIC_WINDOW=3s")
    here.expect(NAME, "CRITICAL", "OK")
