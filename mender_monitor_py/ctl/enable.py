"""``mender-monitorctl enable SUBSYSTEM NAME``."""

from __future__ import annotations

import click

from mender_monitor_py.ctl.checks import RAW, named, of_a_check, open_catalog


@click.command("enable", context_settings=RAW)
@of_a_check
def command(subsystem: str, name: str) -> None:
    """Enable a check; the daemon notices at once."""
    open_catalog().enable(named(subsystem, name))
