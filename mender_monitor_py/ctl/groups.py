"""Commands that have commands of their own."""

from __future__ import annotations

import click


def need_command(context: click.Context, more: str) -> None:
    """
    Raise click.UsageError when no command follows; *more* shows what there is.

    Releases of click differ in what they do by themselves.
    """
    if context.invoked_subcommand is None:
        raise click.UsageError(f"a command is missing; see {more}")
