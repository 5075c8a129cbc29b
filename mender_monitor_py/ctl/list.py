"""``mender-monitorctl list``."""

from __future__ import annotations

import click

from mender_monitor_py.ctl.checks import open_catalog
from mender_monitor_py.ctl.text import one_line


@click.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are not enabled, with their state.")
def command(everything: bool) -> None:
    """
    Print the file name of each enabled check, one a line.

    With --all, of each check, and after it "enabled", "disabled" or (the file is gone) "missing".
    """
    catalog = open_catalog()
    enabled = catalog.enabled()
    if not everything:
        for check in enabled:
            click.echo(one_line(check.file_name))
        return
    for check in sorted({*catalog.available(), *enabled}):
        state = (
            "disabled" if check not in enabled else "enabled" if catalog.file(check).exists() else "missing"
        )
        click.echo(f"{one_line(check.file_name)} {state}")
