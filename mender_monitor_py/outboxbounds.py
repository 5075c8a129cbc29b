"""Keeps the outbox within its bounds, and tells what that cost."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import Any

from mender_monitor_py import outboxrows as rows
from mender_monitor_py import shedding
from mender_monitor_py.model import Stamp
from mender_monitor_py.records import SENT, SET_ASIDE, Limits, age
from mender_monitor_py.shedding import Waiting

log = logging.getLogger(__name__)

MAX_SIZE = 32 * 1024 * 1024  # bytes of alerts that wait

# The newest number less the oldest is more than there are, and is found without counting them.
_EXTENT = """
SELECT (SELECT max(seq) FROM alerts WHERE state = 'waiting') - seq + 1, boot_id, boottime, wall, known, delay
    FROM alerts WHERE state = 'waiting' ORDER BY seq LIMIT 1
"""


def trim(connection: sqlite3.Connection, limits: Limits, now: Stamp, lost: Sequence[str] = ()) -> None:
    """Drop what waits beyond the bounds, and tell it; *lost* are identities that were dropped before."""
    found = connection.execute(_EXTENT).fetchone()
    if found is None and not lost:
        return
    extent, *oldest = found or (0, now.boot_id, now.boottime, now.wall, now.known, 0.0)
    full = (extent > limits.count or _pages_size(connection) > MAX_SIZE) and _is_full(connection, limits)
    if not (full or lost or _is_too_old(oldest, limits, now)):
        return
    before = rows.losses(connection)
    losses = before.plus(lost)
    old = too_old(connection, limits, now)
    losses = losses.plus((identity for _, identity in old), old=True)
    rows.delete(connection, (seq for seq, _ in old))
    if full or losses != before:
        surplus = _surplus(connection, max(limits.count - 1, 1))  # one place is for what tells of it
        losses = losses.plus(record.identity for record in surplus)
        rows.delete(connection, (record.seq for record in surplus))
    if losses == before:
        return
    log.warning("%d alerts were dropped (%d ever)", losses.ever - before.ever, losses.ever)
    # Not changed in place: the sender may be about to say that the old number arrived.
    connection.execute("DELETE FROM alerts WHERE own = ? AND state = 'waiting'", (rows.LOSS,))
    rows.insert(connection, losses.alert(), now, rows.LOSS)
    rows.set_losses(connection, losses)


def trim_history(connection: sqlite3.Connection, limits: Limits, now: Stamp) -> None:
    """Delete what was listed for long enough, or is too much to list."""
    connection.execute(
        "DELETE FROM alerts WHERE state != 'waiting' AND state = 'sent' AND abs(? - sent) > ?",
        (now.wall, limits.history if limits.history > 0 else -1),
    )
    for state in (SENT, SET_ASIDE):
        connection.execute(
            "DELETE FROM alerts WHERE state != 'waiting' AND state = ? AND seq <= "
            "(SELECT seq FROM alerts WHERE state != 'waiting' AND state = ? "
            "ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (state, state, max(limits.count, 1)),
        )


def too_old(connection: sqlite3.Connection, limits: Limits, now: Stamp) -> list[tuple[int, str]]:
    """
    Number and identity of those at the head that have waited for too long, since they were stored.

    How long ago it happened does not count: a silence may have kept it back. What tells of losses is never
    too old.
    """
    found = []
    for seq, identity, *at in connection.execute(
        "SELECT seq, identity, boot_id, boottime, wall, known, delay FROM alerts "
        "WHERE state = 'waiting' AND own != ? ORDER BY seq",
        (rows.LOSS,),
    ):
        if not _is_too_old(at, limits, now):
            break
        found.append((seq, identity))
    return found


def _pages_size(connection: sqlite3.Connection) -> int:
    """The size of the file; what waits is smaller."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return int(pages) * int(connection.execute("PRAGMA page_size").fetchone()[0])


def _is_full(connection: sqlite3.Connection, limits: Limits) -> bool:
    number, size = connection.execute(
        "SELECT count(*), total(size) FROM alerts WHERE state = 'waiting'"
    ).fetchone()
    return bool(number > limits.count or size > MAX_SIZE)


def _is_too_old(at: Sequence[Any], limits: Limits, now: Stamp) -> bool:
    return limits.age > 0 and age(rows.stored_at(*at), now) > limits.age


def _surplus(connection: sqlite3.Connection, room: int) -> list[Waiting]:
    waiting = [
        Waiting(seq, identity, bool(bad), size)
        for seq, identity, bad, size in connection.execute(
            "SELECT seq, identity, bad, size FROM alerts WHERE state = 'waiting' AND own != ? ORDER BY seq",
            (rows.LOSS,),
        )
    ]
    told_last = connection.execute(
        "SELECT identity, bad, max(seq) FROM alerts "
        "WHERE state != 'waiting' AND state = 'sent' GROUP BY identity"
    )
    bad_before = {identity for identity, bad, _ in told_last if bad}
    return shedding.surplus(waiting, count=room, size=MAX_SIZE, bad_before=bad_before)
