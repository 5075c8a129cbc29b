"""``mender-monitorctl silence SUBSYSTEM NAME [DURATION|off]``."""

from __future__ import annotations

import click

from mender_monitor_py import duration, silence
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl.checks import named, of_a_check, open_catalog, open_outbox
from mender_monitor_py.errors import CatalogError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.paths import Paths

LONGEST_S = 30 * 86_400


def _length(_: click.Context, __: click.Parameter, text: str) -> float | None:
    if text == "off":
        return None
    try:
        seconds = duration.seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not 0 < seconds <= LONGEST_S:
        raise click.BadParameter("a silence has an end: more than 0, and 30d at most")
    return seconds


@click.command("silence")
@of_a_check
@click.argument("length", metavar="DURATION|off", callback=_length)
@click.option("--reason", default="", help="Why, for whoever looks at the status.")
def command(subsystem: str, name: str, length: float | None, reason: str) -> None:
    """
    Send nothing of a check for a while, for maintenance; it goes on watching.

    What is new then is told when the time is over, or with "off".
    """
    check = named(subsystem, name)
    catalog = open_catalog()
    if check not in {*catalog.enabled(), *catalog.available()}:
        raise CatalogError(f"{check} does not exist")
    paths = Paths.from_environment()
    clock = Clock()
    outbox = open_outbox(paths, load_settings(paths)[0], clock)
    if length is None:
        silence.end(outbox, check)
    else:
        silence.begin(outbox, check, length, reason, clock.now())
