"""The table of contents: one module a subsystem, imported when a check of it is met."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mender_monitor_py.subsystems.base import Check, Template

SUBSYSTEMS = (
    "service",
    "log",
    "dbus",
    "diskusage",
    "connectivity",
    "ports",
    "process",
    "pid",
    "setuid",
    "integrity",
    "deployment",
    "traffic",
    "login",
    "vulnscan",
    "wifi",
)
TEMPLATES = ("dockerevents",)
# The original's own, whose scripts may still lie in monitor.d. For every other subsystem a user's own script
# of that name wins over ours: a device that moves here keeps what it had.
CORE = ("service", "log", "dbus")


def check_class(subsystem: str) -> type[Check] | None:
    """The class of a native subsystem: its module's ``CHECK``. None: there is no such one."""
    if subsystem not in SUBSYSTEMS:
        return None
    found: type[Check] = importlib.import_module(f"{__name__}.{subsystem}").CHECK
    return found


def template(name: str) -> Template | None:
    """A pseudo subsystem: its module's ``TEMPLATE``. None: there is no such one."""
    if name not in TEMPLATES:
        return None
    found: Template = importlib.import_module(f"{__name__}.{name}").TEMPLATE
    return found
