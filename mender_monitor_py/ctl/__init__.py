"""``mender-monitorctl``: one file a command, imported when it is called."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from mender_monitor_py import __version__
from mender_monitor_py.ctl.groups import need_command
from mender_monitor_py.ctl.text import one_line
from mender_monitor_py.errors import MonitorError

PROGRAM = "mender-monitorctl"
TITLE = f"Mender Monitoring control utility v{__version__}"
COMMANDS = (
    "create",
    "enable",
    "disable",
    "delete",
    "list",
    "status",
    "silence",
    "unsilence",
    "baseline",
    "secure",
    "scan",
    "queue",
    "lint",
    "help",
)


class Commands(click.Group):
    """Finds a command by its module's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            raise click.UsageError(f"there is no command {args[0]!r}; see {PROGRAM} help")
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        from mender_monitor_py.ctl.help import overview

        return overview()


@click.command(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, help="Print the version.")
@click.pass_context
def cli(context: click.Context, version: bool) -> None:
    """The program, without its error messages."""
    if version:
        click.echo(f"{TITLE}\nUsage: {PROGRAM} COMMAND [ARGUMENT...]; see {PROGRAM} help")
        context.exit()
    need_command(context, f"{PROGRAM} help")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    The program.

    Silent when it succeeds; else one line on standard error, and exit status 1, or 2 for wrong usage.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except MonitorError as error:
        _fail(str(error), 1)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"{PROGRAM}: {one_line(message)}", err=True)
    sys.exit(status)
