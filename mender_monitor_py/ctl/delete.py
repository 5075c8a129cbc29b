"""``mender-monitorctl delete SUBSYSTEM NAME``."""

from __future__ import annotations

import click

from mender_monitor_py.ctl.checks import RAW, named, of_a_check, open_catalog


@click.command("delete", context_settings=RAW)
@of_a_check
@click.argument("ignored", nargs=-1, type=click.UNPROCESSED)
def command(subsystem: str, name: str, ignored: tuple[str, ...]) -> None:
    """
    Delete a check, and disable it before.

    More words are ignored: they may be those that it was created with.
    """
    open_catalog().delete(named(subsystem, name))
