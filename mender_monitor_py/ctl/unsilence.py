"""``mender-monitorctl unsilence [SUBSYSTEM NAME | --all]``."""

from __future__ import annotations

import click

from mender_monitor_py.ctl.silence import EVERYTHING, end


@click.command("unsilence")
@EVERYTHING
@click.argument("words", nargs=-1, metavar="[SUBSYSTEM NAME]")
def command(everything: bool, words: tuple[str, ...]) -> None:
    """
    End a silence before its time: what is new, and still so, is told now.

    With --all every silence ends, also those of single checks.
    """
    if len(words) != (0 if everything else 2):
        raise click.UsageError("SUBSYSTEM NAME, or --all, is needed")
    end(words)
