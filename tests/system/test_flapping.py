"""A service that flaps on a device of its own, with the default settings. It takes minutes."""

from __future__ import annotations

import time
from pathlib import Path

from tests.system.device import told_on_failure
from tests.system.product import assert_between, site

TIMES = 32
SECONDS = 2.2
CALM_SECONDS = 120
NOT_RUNNING = "Service victim not running"
UP_AND_DOWN = "Service victim going up and down"


def test_a_flapping_service(tmp_path: Path) -> None:
    """
    Stopped and started 32 times for 2.2 s: one CRITICAL while it flaps, the OK within two minutes after.
    """
    with site(tmp_path, settings="") as here, told_on_failure(here.device):
        here.device.run("systemctl start victim")
        here.watch("service", "victim", "systemd")
        began = here.now()
        for _ in range(TIMES):
            for verb in ("stop", "start"):
                here.device.run(f"systemctl {verb} victim")
                time.sleep(SECONDS)
        ended = here.now()
        here.server.wait_for(
            lambda alerts: bool(alerts) and (alerts[-1]["name"], alerts[-1]["level"]) == (NOT_RUNNING, "OK"),
            CALM_SECONDS,
        )
        alerts = here.server.alerts()
    names = [(alert["name"], alert["level"]) for alert in alerts]
    start = names.index((UP_AND_DOWN, "CRITICAL"))
    assert_between(began, alerts[start], ended)
    assert all(name == NOT_RUNNING for name, _ in names[:start])
    assert sorted(names[start + 1 :]) == [(UP_AND_DOWN, "OK"), (NOT_RUNNING, "OK")]
    for alert in alerts[start + 1 :]:
        assert_between(ended, alert, ended + CALM_SECONDS)
