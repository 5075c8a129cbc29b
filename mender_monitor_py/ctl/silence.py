"""``mender-monitorctl silence [SUBSYSTEM NAME | --all] DURATION``, and ``off`` in place of a duration."""

from __future__ import annotations

import click

from mender_monitor_py import duration, silence
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl.checks import named, open_catalog, open_outbox
from mender_monitor_py.errors import CatalogError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CheckId
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.paths import Paths

LONGEST_S = 30 * 86_400
MAX_REASON = 200  # characters

EVERYTHING = click.option("--all", "everything", is_flag=True, help="All checks, also those made meanwhile.")


@click.command("silence")
@EVERYTHING
@click.option("--reason", default="", help="Why, for whoever looks at the status.")
@click.argument("words", nargs=-1, metavar="[SUBSYSTEM NAME] DURATION|off")
def command(everything: bool, reason: str, words: tuple[str, ...]) -> None:
    """
    Send nothing of a check for a while, for maintenance; it goes on watching.

    What is new then, and still so, is told when the time is over, or with "unsilence".
    """
    if len(words) != (1 if everything else 3):
        raise click.UsageError("SUBSYSTEM NAME DURATION, or --all DURATION, is needed")
    *check, length = words
    if length == "off":
        end(tuple(check))
        return
    seconds = _seconds(length)
    if len(reason) > MAX_REASON:
        raise click.UsageError(f"the reason is longer than {MAX_REASON} characters")
    silenced = _existing(*check) if check else None
    clock = Clock()
    silence.begin(_outbox(clock), silenced, seconds, reason, clock.now())


def end(words: tuple[str, ...]) -> None:
    """End the silence of the check that *words* name, or each of them when there are none."""
    clock = Clock()
    outbox = _outbox(clock)
    if not words:
        silence.end_all(outbox)
        return
    check = _existing(*words)
    if silence.active(outbox, clock.now()).everything is not None:
        raise CatalogError(f"all checks are silent, {check} with them: use unsilence --all")
    silence.end(outbox, check)


def _seconds(text: str) -> float:
    try:
        seconds = duration.seconds(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not 0 < seconds <= LONGEST_S:
        raise click.UsageError("a silence has an end: more than 0, and 30d at most")
    return seconds


def _existing(subsystem: str, name: str) -> CheckId:
    check = named(subsystem, name)
    catalog = open_catalog()
    if check not in {*catalog.enabled(), *catalog.available()}:
        raise CatalogError(f"{check} does not exist")
    return check


def _outbox(clock: Clock) -> Outbox:
    paths = Paths.from_environment()
    return open_outbox(paths, load_settings(paths)[0], clock)
