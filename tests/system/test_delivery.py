"""Alerts are kept while the server is away, over reboots too, and arrive in order, once, with their times."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.events import RETURN_SECONDS, Events
from tests.system.product import Site


def dark(kind: str, **fields: Any) -> Callable[[Site], None]:
    def switch(site: Site) -> None:
        site.server.fault(kind, to="alert", **fields)

    return switch


@pytest.mark.parametrize(
    "switch",
    [
        dark("dark"),
        dark("refuse", seconds=3600),
        dark("status", status=503),
        dark("status", status=429, retry_after=2),
    ],
    ids=["no answer", "refused", "503", "429"],
)
def test_a_server_that_is_dark_for_a_while(here: Site, switch: Callable[[Site], None]) -> None:
    """
    However it fails: what happens meanwhile is told when it is back.
    """
    here.device.run("systemctl start victim")
    here.watch("service", "victim", "systemd")
    known = len(here.server.alerts())
    switch(here)
    events = Events(here)
    for _ in range(3):
        events.happen("systemctl stop victim", "Service victim not running", "CRITICAL")
        events.happen("systemctl start victim", "Service victim not running", "OK")
    assert len(here.server.alerts()) == known
    here.server.reset()
    alerts = here.server.wait_for(lambda alerts: events.arrived(alerts[known:]), RETURN_SECONDS)
    events.check(alerts[known:])
    here.device.run("mender-monitorctl delete service victim")


def test_a_server_without_the_addon(here: Site) -> None:
    """
    The alerts are kept, the status says why, and a user who has bought it does not have to wait.
    """
    known = len(here.server.alerts())
    here.server.fault("status", to="alert", status=403, error="operation requires addon: monitor")
    here.device.run("systemctl start victim")
    here.watch("service", "victim", "systemd")
    events = Events(here)
    events.happen("systemctl stop victim", "Service victim not running", "CRITICAL")
    here.device.wait_until(lambda: "add-on" in json.dumps(here.status()["sender"]))
    here.server.reset()
    here.device.run("mender-monitorctl queue flush")
    alerts = here.server.wait_for(lambda alerts: events.arrived(alerts[known:]), RETURN_SECONDS)
    events.check(alerts[known:])
    here.device.run("mender-monitorctl delete service victim")


def test_stored_alerts_survive_a_reboot_and_a_power_cut(beside_client: Site) -> None:
    """
    With the update client's token: stored alerts outlive both, no state is told twice, and what changed
    while the device was off is told once.
    """
    site, name = beside_client, "Service victim not running"
    site.device.run("systemctl start victim")
    site.watch("service", "victim", "systemd")
    site.device.write("/var/log/app.log", "")
    site.watch("log", "app", "FAILED", "/var/log/app.log")
    site.server.stop()
    events = Events(site)
    events.happen("echo FAILED >>/var/log/app.log", "Log file contains FAILED", "CRITICAL")
    events.happen("systemctl stop victim", name, "CRITICAL")

    site.device.reboot()  # the unit is not enabled: it is still down
    site.device.wait_until(lambda: site.state("service", "victim") == "CRITICAL")
    events.happen("systemctl start victim", name, "OK")
    site.device.run("echo FAILED again >>/var/log/app.log")

    def cut() -> None:
        site.device.cut_power()
        site.device.boot()

    events.happen(cut, name, "CRITICAL")

    site.server.start()
    alerts = site.server.wait_for(events.arrived, RETURN_SECONDS)
    events.check(alerts)
    site.device.run("systemctl start victim")
    assert site.expect(name, "CRITICAL", "OK", "CRITICAL", "OK")
    assert site.server.alerts()[:-1] == alerts


def test_nothing_is_alerted_because_the_device_shuts_down(beside_client: Site) -> None:
    """
    Every service ends when the device does; that is no news.
    """
    site = beside_client
    site.device.run("systemctl enable --now cron")
    site.watch("service", "cron", "systemd")
    site.watch("service", "ssh", "systemd")
    site.device.reboot()
    site.device.wait_until(lambda: site.state("service", "cron") == "OK")
    site.device.power_off()
    site.device.boot()
    site.device.wait_until(lambda: site.state("service", "cron") == site.state("service", "ssh") == "OK")
    site.device.run("systemctl stop ssh")
    site.expect("Service ssh not running", "CRITICAL")
    assert len(site.server.alerts()) == 1
