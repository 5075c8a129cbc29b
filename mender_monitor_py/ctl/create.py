"""``mender-monitorctl create SUBSYSTEM NAME ARGUMENT...``."""

from __future__ import annotations

import click

from mender_monitor_py import subsystems
from mender_monitor_py.ctl import arguments, help
from mender_monitor_py.ctl.checks import RAW, open_catalog
from mender_monitor_py.errors import CatalogError
from mender_monitor_py.model import CheckId


@click.command("create", context_settings=RAW, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...]) -> None:
    """
    Create a check, or write an existing one anew.

    What would not work is not created.
    """
    if words in ((), ("-h",), ("--help",)):
        return _show_usage(asked=bool(words))
    subsystem, rest = words[0], words[1:]
    catalog = open_catalog()
    if rest in (("-h",), ("--help",)):
        click.echo(help.subsystem_help(catalog, subsystem))
        return None
    template = subsystems.template(subsystem)
    if template is None:
        fields = catalog.check_class(subsystem).fields
    try:
        if not rest:
            raise CatalogError("NAME is missing")
        name = rest[0]
        if template is not None:
            values = arguments.template_values(template, name, rest[1:])
            check = CheckId(template.subsystem, name)
        else:
            values = arguments.values(fields, name, rest[1:])
            check = CheckId(subsystem, name)
    except CatalogError as error:
        raise click.UsageError(f"{error}; usage: {help.create_usage(catalog, subsystem)}") from error
    catalog.create(check, values)
    return None


def _show_usage(*, asked: bool) -> None:
    if not asked:
        raise click.UsageError("SUBSYSTEM is missing; see mender-monitorctl help")
    click.echo("\n".join(help.create_usages(open_catalog())))
