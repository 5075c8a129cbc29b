"""The enabled checks as the server shows them: the body of ``POST …/devicemonitor/config``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mender_monitor_py import duration
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.wire import clean


def body(definitions: Iterable[Definition], *, others: str) -> list[dict[str, Any]]:
    """
    One entry an enabled check, sorted.

    The specification knows services, logs and D-Bus. Checks of other subsystems are left out, or sent as
    logs where *others* is ``log``.
    """
    entries = []
    for definition in sorted(definitions, key=lambda one: one.check):
        kind, values = _values(definition, others)
        if kind:
            name = f"{definition.check.name}.sh"
            entries.append({"name": clean(name), "type": kind, "status": "enabled", kind: values})
    return entries


def _values(definition: Definition, others: str) -> tuple[str, dict[str, Any]]:
    def text(*names: str) -> str:
        return clean(next((definition.values[name] for name in names if definition.values.get(name)), ""))

    check = definition.check
    values: dict[str, Any]
    if check.subsystem == "service":
        return "service", {
            "name": text("SERVICE_NAME") or clean(check.name),
            "type": text("SERVICE_TYPE") or "systemd",
        }
    if check.subsystem == "log":
        values = {"pattern": text("LOG_PATTERN"), "path": text("LOG_FILE")}
        seconds = _seconds(text("LOG_PATTERN_EXPIRATION"))
        return "log", values if seconds is None else {**values, "expire_seconds": seconds}
    if check.subsystem == "dbus":
        values = {
            "name": text("DBUS_NAME") or clean(check.name),
            "pattern": text("DBUS_PATTERN"),
            "watch": text("DBUS_WATCH_EXPRESSION"),
        }
        seconds = _seconds(text("DBUS_ALERT_EXPIRATION", "DBUS_PATTERN_EXPIRATION"))
        return "dbus", values if seconds is None else {**values, "alert_expiration": seconds}
    if others == "log":
        return "log", {"pattern": clean(check.name), "path": f"@{clean(check.subsystem)}"}
    return "", {}


def _seconds(text: str) -> int | None:
    """A duration in seconds. None: not set, or not valid."""
    try:
        return duration.seconds(text) or None if text else None
    except ValueError:
        return None
