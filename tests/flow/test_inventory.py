"""The inventory script of the update client, beside the real daemon and without it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py.inventory import day_of
from tests.fakes.executed import executed
from tests.fakes.fake_systemd import FakeSystemd
from tests.fakes.monitor import Monitor

SCRIPT = Path(__file__).parents[2] / "scripts/inventory/mender-inventory-mender-monitor"


def run(paths: Any) -> dict[str, str]:
    """What it prints; it never fails, and says nothing on stderr."""
    done = subprocess.run(
        [SCRIPT], env={"MENDER_MONITOR_ROOT": str(paths.root)}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_it_tells_how_many_checks_and_alerts_there_are(paths: Any, private_bus: Any) -> None:
    """
    Checks, and alerts that are open; the same as long as nothing happens, also over a restart.

    When it ends its alert stays open.
    """

    async def story() -> None:
        async with FakeSystemd(private_bus.address) as systemd:
            systemd.add("cron.service")
            monitor = Monitor(paths)
            monitor.enable("service", "cron", SERVICE_NAME="cron")
            async with monitor:
                await monitor.until_state("service cron", "OK")
                await asyncio.sleep(0.1)
                first = run(paths)
                assert first == {
                    "mender_monitor_version": "1.2",
                    "mender_monitor_state": "running",
                    "mender_monitor_checks": "1",
                    "mender_monitor_checks_not_watching": "0",
                    "mender_monitor_alerts": "0",
                    "mender_monitor_last_contact": "never",
                }
                await systemd.change("cron.service", "inactive")
                await monitor.until_state("service cron", "CRITICAL")
                assert run(paths) == {**first, "mender_monitor_alerts": "1"}
                monitor.outbox.set_meta("contact", "2026-11-24")
                assert await monitor.end() == 0
            assert run(paths) == {
                "mender_monitor_version": "1.2",
                "mender_monitor_state": "stopped",
                "mender_monitor_alerts": "1",
                "mender_monitor_last_contact": "never",
            }
            async with monitor:
                await monitor.until_state("service cron", "CRITICAL")
                assert run(paths)["mender_monitor_last_contact"] == "2026-11-24"

    paths.share.mkdir(parents=True)
    (paths.share / ".version").write_text("1.2\n")
    asyncio.run(story())


def test_without_anything(paths: Any) -> None:
    """
    No version, no daemon, no folder: two lines, and no failure.
    """
    assert run(paths) == {"mender_monitor_version": "unknown", "mender_monitor_state": "stopped"}


def test_what_a_dead_daemon_left(paths: Any) -> None:
    """
    Alerts that were open are, for the server; which checks watch is not known any more.
    """
    paths.run.mkdir(parents=True)
    paths.inventory.write_text("mender_monitor_checks=9\nmender_monitor_alerts=2\nanything else\n")
    paths.pid_file.parent.mkdir(parents=True, exist_ok=True)
    stopped = {
        "mender_monitor_version": "unknown",
        "mender_monitor_state": "stopped",
        "mender_monitor_alerts": "2",
    }
    for dead in ("999999999", "../self", ""):
        paths.pid_file.write_text(f"{dead}\n")
        assert run(paths) == stopped
    with (
        subprocess.Popen(["sleep", "60"]) as another,
        executed(["mender-monitord", "60"], executable="/usr/bin/sleep") as daemon,
    ):
        paths.pid_file.write_text(f"{another.pid}\n")
        assert run(paths) == stopped
        paths.pid_file.write_text(f"{daemon.pid}\n")
        assert run(paths)["mender_monitor_checks"] == "9"
        another.kill()
        daemon.kill()


@pytest.mark.parametrize(("moment", "day"), [(0.0, ""), (1_795_651_200.0, "2026-11-26")])
def test_the_day(moment: float, day: str) -> None:
    """
    Days, not moments: a value that changed with each alert would have each inventory sent.
    """
    assert day_of(moment) == day
