"""
``mender-monitor-hook``: the outbox, for scripts. The shell library calls it.

    mender-monitor-hook alert    stdin: the arguments of monitor_send_alert, each ended by a NUL
    mender-monitor-hook put      stdin: a record; an alert in the server's JSON is queued as that alert
    mender-monitor-hook count    prints how many alerts of checks and scripts wait
    mender-monitor-hook keys     prints a number for each of them, one a line

What is stored is durable on exit 0. The daemon sees it at once, or finds it when it starts.
Scripts may call this often: it imports little.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import closing

from mender_monitor_py import __version__, alertcall, wire
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.errors import MonitorError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.paths import Paths


def queue_alert(outbox: Outbox, clock: Clock) -> str:
    """Store the alert that monitor_send_alert's arguments on stdin ask for. Raises ValueError."""
    outbox.put([alertcall.parse(_stdin(alertcall.MAX_SIZE))], clock.now())
    return ""


def put_record(outbox: Outbox, clock: Clock) -> str:
    """Store the record on stdin. Raises ValueError when it is too big."""
    record = _stdin(wire.MAX_ALERT_SIZE)
    try:
        alert = wire.from_text(record)
    except ValueError:
        outbox.put_raw(record, clock.now())
    else:
        outbox.put([alert], clock.now())
    return ""


def count(outbox: Outbox, _: Clock) -> str:
    """How many alerts wait, as a line."""
    return f"{len(outbox.keys())}\n"


def keys(outbox: Outbox, _: Clock) -> str:
    """The number of each alert that waits, one a line."""
    return "".join(f"{seq}\n" for seq in outbox.keys())  # noqa: SIM118 - no dictionary


COMMANDS: Mapping[str, Callable[[Outbox, Clock], str]] = {
    "alert": queue_alert,
    "put": put_record,
    "count": count,
    "keys": keys,
}

_USAGE = f"usage: mender-monitor-hook {'|'.join(COMMANDS)}; see mender-monitor-hook(8)\n"


def main() -> None:
    """The program."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if sys.argv[1:] in (["--version"], ["--help"], ["-h"]):
        sys.stdout.write(f"mender-monitor-hook {__version__}\n{_USAGE}")
        return
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.stderr.write(_USAGE)
        sys.exit(2)
    paths, clock = Paths.from_environment(), Clock()
    try:
        settings, _ = load_settings(paths)
        with closing(Outbox(paths.outbox, Limits.of(settings), clock)) as outbox:
            sys.stdout.write(COMMANDS[sys.argv[1]](outbox, clock))
    except (MonitorError, ValueError) as error:
        sys.exit(f"mender-monitor-hook {sys.argv[1]}: {error}")


def _stdin(limit: int) -> bytes:
    """All of stdin; one byte more than *limit* of what is longer."""
    return sys.stdin.buffer.read(limit + 1)
