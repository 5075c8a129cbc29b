"""The enabled checks as the server shows them."""

from __future__ import annotations

from typing import Any

from mender_monitor_py.confpush import body
from mender_monitor_py.model import CheckId
from mender_monitor_py.subsystems.base import Definition


def entry(subsystem: str, name: str, others: str = "omit", **values: str) -> list[dict[str, Any]]:
    return body([Definition(CheckId(subsystem, name), values)], others=others)


def test_a_service() -> None:
    assert entry("service", "crond", SERVICE_NAME="crond", SERVICE_TYPE="systemd") == [
        {
            "name": "crond.sh",
            "type": "service",
            "status": "enabled",
            "service": {"name": "crond", "type": "systemd"},
        }
    ]
    assert entry("service", "x", SERVICE_NAME="x")[0]["service"]["type"] == "systemd"


def test_a_log() -> None:
    assert entry("log", "a_b", LOG_PATTERN="p.*", LOG_FILE="@journalctl -f", LOG_PATTERN_EXPIRATION="2d") == [
        {
            "name": "a_b.sh",
            "type": "log",
            "status": "enabled",
            "log": {"pattern": "p.*", "path": "@journalctl -f", "expire_seconds": 172_800},
        }
    ]
    assert "expire_seconds" not in entry("log", "x", LOG_PATTERN="p", LOG_FILE="/f")[0]["log"]


def test_a_dbus_check_by_either_name_of_its_expiration() -> None:
    for name in ("DBUS_ALERT_EXPIRATION", "DBUS_PATTERN_EXPIRATION"):
        values = {"DBUS_NAME": "n", "DBUS_PATTERN": "", "DBUS_WATCH_EXPRESSION": "w", name: "60"}
        assert entry("dbus", "x", **values)[0]["dbus"] == {
            "name": "n",
            "pattern": "",
            "watch": "w",
            "alert_expiration": 60,
        }


def test_other_subsystems_are_left_out_or_sent_as_logs() -> None:
    assert entry("ports", "external") == []
    (sent,) = entry("ports", "external", others="log")
    assert sent["type"] == "log"
    assert sent["name"] == "external.sh"


def test_the_order_is_always_the_same() -> None:
    definitions = [Definition(CheckId("service", name), {"SERVICE_NAME": name}) for name in "cab"]
    assert [one["name"] for one in body(definitions, others="omit")] == ["a.sh", "b.sh", "c.sh"]
    assert body(definitions, others="omit") == body(reversed(definitions), others="omit")
