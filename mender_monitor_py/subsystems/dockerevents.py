"""The pseudo subsystem ``dockerevents``: a log check of what ``docker events`` prints."""

from __future__ import annotations

from collections.abc import Mapping

from mender_monitor_py.subsystems.base import Template


def _expand(name: str, arguments: tuple[str, ...]) -> Mapping[str, str]:
    """The values of the log check *name*, as the original add-on writes them."""
    container, action, *expiration = arguments
    values = {
        "SERVICE_NAME": name,
        "LOG_PATTERN": f".*container {action}.*name={container}.*",
        "LOG_FILE": "@docker events",
        "LOG_ALERT_DESCRIPTION": f"Docker container {container} {action}",
        "LOG_ALERT_DETAILS": "Alert was raised due to:%line_matching",
        "LOG_ALERT_STATUS": "DOCKEREVENTS_CONTAINER_EVENT",
        "LOG_ALERT_TYPE": "docker_event",
    }
    if expiration:
        values["LOG_PATTERN_EXPIRATION"] = expiration[0]
    return values


TEMPLATE = Template(
    name="dockerevents",
    summary="an event of a Docker container",
    subsystem="log",
    arguments=("CONTAINER", "ACTION"),
    optional=("EXPIRATION",),
    expand=_expand,
)
