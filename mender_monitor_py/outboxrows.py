"""The tables of the outbox's file, and their rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mender_monitor_py import shedding, wire
from mender_monitor_py.model import OK, Alert, Details, Stamp, Subject
from mender_monitor_py.records import Changes, Record
from mender_monitor_py.shedding import Losses

PLAIN, OWN, LOSS = 0, 1, 2  # the column "own": alerts of checks, about the outbox, about what was dropped

COLUMNS = "seq, state, boot_id, boottime, wall, known, sent, reason, body, size"
VERSION = 1
# Columns that a file of this version may lack: an earlier build made it, and may have to go on with it.
ADDED = (("alerts", "delay", "REAL NOT NULL DEFAULT 0"),)
SCHEMA = """
CREATE TABLE alerts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    own INTEGER NOT NULL,
    identity TEXT NOT NULL,
    bad INTEGER NOT NULL,
    size INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    boottime REAL NOT NULL,
    wall REAL NOT NULL,
    known INTEGER NOT NULL,
    sent REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    body BLOB NOT NULL,
    delay REAL NOT NULL DEFAULT 0
);
CREATE INDEX waiting ON alerts (seq, size) WHERE state = 'waiting';
CREATE INDEX others ON alerts (state, seq, sent) WHERE state != 'waiting';
CREATE TABLE states (
    subsystem TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (subsystem, name, key)
) WITHOUT ROWID;
CREATE TABLE memories (
    subsystem TEXT NOT NULL,
    name TEXT NOT NULL,
    memory TEXT NOT NULL,
    PRIMARY KEY (subsystem, name)
) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID
"""

_LOSSES = "losses"
_LOOK = 1000  # bytes of a record that is no alert

Row = tuple[int, str, str, float, float, int, float, str, bytes, int]


def insert(
    connection: sqlite3.Connection, alert: Alert, at: Stamp, own: int = PLAIN, *, delay: float = 0.0
) -> None:
    """Add *alert*, cut to what the server can take. It is stored *delay* seconds after it happened."""
    body = wire.to_text(alert)
    if len(body) > wire.MAX_ALERT_SIZE:
        alert = wire.bounded(alert)
        body = wire.to_text(alert)
    identity, bad = shedding.identity(alert), alert.level != OK
    insert_body(connection, body.encode(), at, own, identity=identity, bad=bad, delay=delay)


def insert_body(
    connection: sqlite3.Connection,
    body: bytes,
    at: Stamp,
    own: int,
    *,
    identity: str,
    bad: bool,
    delay: float = 0.0,
) -> None:
    """Add what is in *body*, an alert or not."""
    connection.execute(
        "INSERT INTO alerts (state, own, identity, bad, size, boot_id, boottime, wall, known, body, "
        "delay) VALUES ('waiting', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (own, identity, bad, len(body), at.boot_id, at.boottime, at.wall, at.known, body, delay),
    )


def delete(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    """Delete those, in whatever state."""
    connection.executemany("DELETE FROM alerts WHERE seq = ?", ((seq,) for seq in seqs))


def to_records(rows: Iterable[Row], *, every: bool = False) -> tuple[list[Record], list[int]]:
    """
    The records that *rows* are, and the numbers of those that are no alerts.

    With *every* those are among the records too, in a form that a person can look at.
    """
    found, damaged = [], []
    for seq, state, boot_id, boottime, wall, known, sent, reason, body, _ in rows:
        try:
            alert = wire.from_text(body)
        except ValueError:
            damaged.append(seq)
            if not every:
                continue
            text = body[:_LOOK].decode(errors="backslashreplace")
            alert = Alert("(no alert)", "INVALID", Subject("record", "record", "invalid"), Details(text))
        found.append(Record(seq, alert, stamp(boot_id, boottime, wall, known), state, sent, reason))
    return found, damaged


def stamp(boot_id: str, boottime: float, wall: float, known: int) -> Stamp:
    """The stamp that four columns hold."""
    return Stamp(boot_id, boottime, wall, bool(known))


def stored_at(boot_id: str, boottime: float, wall: float, known: int, delay: float) -> Stamp:
    """When an alert was stored, which is *delay* seconds after it happened, at the moment of the others."""
    return Stamp(boot_id, boottime + delay, wall + delay, bool(known))


def meta(connection: sqlite3.Connection, key: str) -> str:
    """A value of the program's own; empty when there is none."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row is not None else ""


def metas(connection: sqlite3.Connection, prefix: str) -> dict[str, str]:
    """The values whose keys begin with *prefix*."""
    query = "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?"
    return dict(connection.execute(query, (len(prefix), prefix)))


def set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Keep *value*; an empty one deletes."""
    if value:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
    else:
        connection.execute("DELETE FROM meta WHERE key = ?", (key,))


def losses(connection: sqlite3.Connection) -> Losses:
    """What was dropped."""
    return Losses.from_text(meta(connection, _LOSSES))


def set_losses(connection: sqlite3.Connection, losses: Losses) -> None:
    """Keep *losses*."""
    set_meta(connection, _LOSSES, losses.to_text())


def write_states(connection: sqlite3.Connection, changes: Changes) -> None:
    """The states and memories of *changes*."""
    for (check, key), state in changes.states.items():
        if state is None:
            connection.execute(
                "DELETE FROM states WHERE subsystem = ? AND name = ? AND key = ?",
                (check.subsystem, check.name, _plain(key)),
            )
        else:
            row = (check.subsystem, check.name, _plain(key), state)
            connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", row)
    for check, memory in changes.memories.items():
        if memory is None:
            connection.execute(
                "DELETE FROM memories WHERE subsystem = ? AND name = ?", (check.subsystem, check.name)
            )
        else:
            connection.execute(
                "INSERT OR REPLACE INTO memories VALUES (?, ?, ?)",
                (check.subsystem, check.name, _plain(memory)),
            )


def _plain(text: str) -> str:
    """
    *text* as it can be stored. A byte that is no UTF-8, as a file's name may have it (PEP 383), is escaped.

    It must not keep all that is in its transaction from the disk.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
