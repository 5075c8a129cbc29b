"""A small server for development, demo and tests: the device and management API of the monitor."""

from __future__ import annotations


def main() -> None:
    """The program ``mender-monitor-receiver``."""
    from mender_monitor_py.receiver.program import main as run

    run()
