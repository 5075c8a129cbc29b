"""A small server for development, demo and tests: the device and management API of the monitor."""

from __future__ import annotations

import sys


def main() -> None:
    """The program ``mender-monitor-receiver``. Exits with 1 where what it needs besides is not installed."""
    try:
        from mender_monitor_py.receiver.program import main as run
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        sys.exit(
            "mender-monitor-receiver: aiohttp is missing: install the package mender-monitor-receiver, or "
            "'mender-monitor-py[receiver]' by pip"
        )
    run()
