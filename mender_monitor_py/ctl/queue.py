"""``mender-monitorctl queue``: the stored alerts."""

from __future__ import annotations

import json
import signal

import click

from mender_monitor_py import wire
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl import daemon
from mender_monitor_py.ctl.checks import open_outbox
from mender_monitor_py.ctl.groups import need_command
from mender_monitor_py.ctl.text import moment, table
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.outbox import SENT, SET_ASIDE, WAITING, Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.records import Record, happened

_NUMBER = click.IntRange(min=1)


@click.group("queue", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List, show, send or delete the stored alerts."""
    need_command(context, f"{context.command_path} --help")


@command.command("list")
@click.option("--sent", is_flag=True, help="Also those that were sent lately.")
def show_all(sent: bool) -> None:
    """Print the alerts that wait, and those that the server refused, a line each, in order."""
    clock = Clock()
    outbox = _outbox(clock)
    if outbox is None:
        return
    states = (WAITING, SET_ASIDE, SENT) if sent else (WAITING, SET_ASIDE)
    found = sorted((record for state in states for record in outbox.records(state)), key=lambda one: one.seq)
    now = clock.now()
    rows = [
        (str(one.seq), one.state, moment(happened(one.at, now)), one.alert.level, one.alert.name, one.reason)
        for one in found
    ]
    if rows:
        click.echo(table([("NUMBER", "STATE", "TIME", "LEVEL", "ALERT", ""), *rows]))


@command.command("show")
@click.argument("number", type=_NUMBER)
def show(number: int) -> None:
    """Print one alert as JSON, as the server gets it."""
    clock = Clock()
    record = _found(_outbox(clock), number)
    about = {"number": record.seq, "state": record.state}
    if record.reason:
        about["reason"] = record.reason
    body = wire.request_body(record.alert, happened(record.at, clock.now()))
    click.echo(json.dumps({**about, "alert": body}, indent=2))


@command.command("flush")
def flush() -> None:
    """
    Send what waits now.

    The running daemon is told to; without it, this command does it, and fails if not all could be sent.
    """
    paths = Paths.from_environment()
    number = daemon.pid(paths)
    try:
        if number is not None and daemon.send(number, signal.SIGUSR1):
            return
    except PermissionError:
        raise OutboxError("only root may tell the daemon to send; run it as root") from None
    clock = Clock()
    outbox = _outbox(clock)
    if outbox is None:
        return
    import asyncio

    from mender_monitor_py.sender import drain_once

    done = asyncio.run(drain_once(outbox, load_settings(paths)[0], paths, clock))
    if done.problem:
        raise OutboxError(f"{done.sent} alerts were sent, the others wait: {done.problem}")


@command.command("drop")
@click.argument("numbers", type=_NUMBER, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that wait or were refused.")
def drop(numbers: tuple[int, ...], everything: bool) -> None:
    """Delete alerts, which are then never sent."""
    if everything == bool(numbers):
        raise click.UsageError("either numbers or --all is needed")
    outbox = _outbox(Clock())
    if everything and outbox is not None:
        numbers = tuple(one.seq for state in (WAITING, SET_ASIDE) for one in outbox.records(state))
    else:
        for number in numbers:
            _found(outbox, number)
    if outbox is not None:
        outbox.drop(numbers)


def _outbox(clock: Clock) -> Outbox | None:
    """The outbox. None: nothing was ever stored, and to look is no reason to make the file."""
    paths = Paths.from_environment()
    if not paths.outbox.exists():
        return None
    return open_outbox(paths, load_settings(paths)[0], clock)


def _found(outbox: Outbox | None, number: int) -> Record:
    record = outbox.record(number) if outbox is not None else None
    if record is None:
        raise OutboxError(f"there is no alert {number}")
    return record
