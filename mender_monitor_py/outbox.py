"""
The outbox: alerts until the server has them, and what the checks remember, in one SQLite file.

Durable on return, in the order of arrival, bounded; any process may add to it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from mender_monitor_py import shedding, wire
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.database import Database
from mender_monitor_py.model import OK, Alert, CheckId, Details, Stamp, Subject
from mender_monitor_py.records import (
    SENT,
    SET_ASIDE,
    WAITING,
    Changes,
    Counts,
    Limits,
    Record,
    age,
    happened,
)
from mender_monitor_py.shedding import Losses, Waiting

__all__ = ["SENT", "SET_ASIDE", "WAITING", "Changes", "Counts", "Limits", "Outbox", "Record"]

log = logging.getLogger(__name__)

MAX_SIZE = 32 * 1024 * 1024  # bytes of alerts that wait
_MAX_HELD = 2 * 1024 * 1024  # the same, in memory

_VERSION = 1
_SCHEMA = """
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
    body BLOB NOT NULL
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
_COLUMNS = "seq, state, boot_id, boottime, wall, known, sent, reason, body, size"
_LOSSES = "losses"
_LOOK = 1000  # bytes of a record that is no alert
_PLAIN, _OWN, _LOSS = 0, 1, 2  # the column "own"

Row = tuple[int, str, str, float, float, int, float, str, bytes, int]


class Outbox:
    """
    The alerts that wait, in the order in which they came.

    Every method raises OutboxError, with what to do. Nothing is opened before it is needed. Safe for
    threads and for several processes.
    """

    def __init__(self, path: Path, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self._path = path
        self._clock = clock
        self._database = Database(path, _SCHEMA, _VERSION, self._tell_replaced)
        self._held = Changes()
        self._held_losses: list[str] = []
        self._held_lock = threading.Lock()

    def put(self, alerts: Sequence[Alert], at: Stamp) -> None:
        """Add *alerts*, durable on return; all or none."""
        changes = Changes([(alert, at) for alert in alerts])
        self._database.write(lambda connection: self._apply(connection, changes, ()))

    def put_raw(self, body: bytes, at: Stamp) -> None:
        """
        Add a record that is no alert, for scripts that store such; durable on return.

        It waits in its turn, and is set aside by :meth:`head`. Raises ValueError when it is too big.
        """
        if len(body) > wire.MAX_ALERT_SIZE:
            raise ValueError(f"a record of more than {wire.MAX_ALERT_SIZE} bytes")

        def work(connection: sqlite3.Connection) -> None:
            _insert_body(connection, body, at, _PLAIN, identity="raw record", bad=False)
            self._trim(connection, self._clock.now())

        self._database.write(work)

    def keys(self) -> list[int]:
        """The numbers of all that waits, oldest first, but for the outbox's own alerts."""
        query = "SELECT seq FROM alerts WHERE state = 'waiting' AND own = ? ORDER BY seq"
        rows = self._database.read(lambda connection: connection.execute(query, (_PLAIN,)).fetchall())
        return [seq for (seq,) in rows]

    def commit(self, changes: Changes) -> None:
        """
        Write *changes* in one transaction, durable on return.

        When it raises, they are held in memory (bounded as the outbox is) and written with the next
        commit; an empty one is enough.
        """
        with self._held_lock:
            self._held.add(changes)
            if not (self._held or self._held_losses):
                return
            held, lost = self._held, list(self._held_losses)
            try:
                self._database.write(lambda connection: self._apply(connection, held, lost))
            except OutboxError:
                self._bound_held()
                raise
            self._held, self._held_losses = Changes(), []

    def states(self) -> dict[tuple[CheckId, str], str]:
        """The stored state of each finding, by check and key."""
        query = "SELECT subsystem, name, key, state FROM states"
        rows = self._database.read(lambda connection: connection.execute(query).fetchall())
        return {(CheckId(subsystem, name), key): state for subsystem, name, key, state in rows}

    def memories(self) -> dict[CheckId, str]:
        """What each check remembers."""
        query = "SELECT subsystem, name, memory FROM memories"
        rows = self._database.read(lambda connection: connection.execute(query).fetchall())
        return {CheckId(subsystem, name): memory for subsystem, name, memory in rows}

    def forget(self, check: CheckId) -> None:
        """Delete the states and the memory of *check*."""

        def work(connection: sqlite3.Connection) -> None:
            for table in ("states", "memories"):
                connection.execute(
                    f"DELETE FROM {table} WHERE subsystem = ? AND name = ?",  # noqa: S608
                    (check.subsystem, check.name),
                )

        self._database.write(work)

    def head(self, count: int, size: int = MAX_SIZE) -> list[Record]:
        """The first alerts that wait: at most *count* of *size* bytes together, but at least one."""
        query = f"SELECT {_COLUMNS} FROM alerts WHERE state = 'waiting' ORDER BY seq LIMIT ?"  # noqa: S608

        def work(connection: sqlite3.Connection) -> list[Row]:
            rows: list[Row] = []
            total = 0
            for row in connection.execute(query, (count,)):
                total += row[-1]
                if rows and total > size:
                    break
                rows.append(row)
            return rows

        found, damaged = _records(self._database.read(work))
        for seq in damaged:
            self.set_aside(seq, "it cannot be read: it is no alert")
        return found if found or not damaged else self.head(count, size)

    def records(self, state: str = WAITING, *, limit: int = -1) -> list[Record]:
        """The stored alerts in *state*, oldest first."""
        query = f"SELECT {_COLUMNS} FROM alerts WHERE state = ? ORDER BY seq LIMIT ?"  # noqa: S608
        rows = self._database.read(lambda connection: connection.execute(query, (state, limit)).fetchall())
        return _records(rows, every=True)[0]

    def record(self, seq: int) -> Record | None:
        """One stored alert, in whatever state."""
        query = f"SELECT {_COLUMNS} FROM alerts WHERE seq = ?"  # noqa: S608
        rows = self._database.read(lambda connection: connection.execute(query, (seq,)).fetchall())
        return next(iter(_records(rows, every=True)[0]), None)

    def sent(self, seqs: Iterable[int]) -> None:
        """The server has these: they are history now."""
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> None:
            for seq in seqs_sent:
                row = connection.execute(
                    "SELECT own, body FROM alerts WHERE seq = ? AND state = 'waiting'", (seq,)
                ).fetchone()
                if row is None:
                    continue  # dropped meanwhile
                connection.execute(
                    "UPDATE alerts SET state = 'sent', sent = ? WHERE seq = ?", (now.wall, seq)
                )
                own, body = row
                if own == _LOSS:
                    _set_losses(connection, _losses(connection).told())
                if own != _PLAIN:
                    _insert(connection, shedding.cleared(wire.from_text(body)), now)
            self._trim(connection, now)

        seqs_sent = list(seqs)
        self._database.write(work)

    def set_aside(self, seq: int, reason: str) -> None:
        """The server will never take this one: keep it apart, with the *reason*, for a person to see."""
        self._database.write(
            lambda connection: connection.execute(
                "UPDATE alerts SET state = 'set aside', reason = ? WHERE seq = ? AND state = 'waiting'",
                (reason, seq),
            )
        )

    def drop(self, seqs: Iterable[int]) -> int:
        """Delete these, in whatever state; how many there were."""
        given = [(seq,) for seq in seqs]
        return self._database.write(
            lambda connection: connection.executemany("DELETE FROM alerts WHERE seq = ?", given).rowcount
        )

    def counts(self) -> Counts:
        """How much is stored; reads only."""

        def work(connection: sqlite3.Connection) -> Counts:
            waiting = connection.execute("SELECT count(*) FROM alerts WHERE state = 'waiting'").fetchone()[0]
            others = dict(
                connection.execute(
                    "SELECT state, count(*) FROM alerts WHERE state != 'waiting' GROUP BY state"
                )
            )
            oldest = connection.execute(
                "SELECT boot_id, boottime, wall, known FROM alerts "
                "WHERE state = 'waiting' ORDER BY seq LIMIT 1"
            ).fetchone()
            return Counts(
                waiting=waiting,
                set_aside=others.get(SET_ASIDE, 0),
                sent=others.get(SENT, 0),
                dropped=_losses(connection).ever,
                held=len(self._held.alerts),
                oldest=_stamp(*oldest) if oldest is not None else None,
            )

        return self._database.read(work)

    def meta(self, key: str) -> str:
        """A value of the program's own; empty when there is none."""
        return self._database.read(lambda connection: _meta(connection, key))

    def set_meta(self, key: str, value: str) -> None:
        """Keep *value*."""
        self._database.write(lambda connection: _set_meta(connection, key, value))

    def settle(self, now: Stamp) -> None:
        """
        The clock was set: write down the right times of what waits, before a reboot makes them unknown.

        Writes only if there is something to correct.
        """
        if not now.known:
            return
        query = "SELECT seq, boot_id, boottime, wall, known FROM alerts WHERE state = 'waiting'"

        def wrong(connection: sqlite3.Connection) -> list[tuple[float, int]]:
            stamps = [(seq, _stamp(*row)) for seq, *row in connection.execute(query)]
            return [
                (happened(at, now), seq) for seq, at in stamps if not at.known or happened(at, now) != at.wall
            ]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE alerts SET wall = ?, known = 1 WHERE seq = ?", wrong(connection))

        if self._database.read(wrong):
            self._database.write(work)

    def expire(self) -> None:
        """Drop what has waited for too long. Writes only if there is such a one."""
        now = self._clock.now()
        if self._database.read(lambda connection: self._too_old(connection, now)):
            self._database.write(lambda connection: self._trim(connection, now))

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        self._database.close()

    def _apply(self, connection: sqlite3.Connection, changes: Changes, lost: Sequence[str]) -> None:
        for alert, at in changes.alerts:
            _insert(connection, alert, at)
        for (check, key), state in changes.states.items():
            if state is None:
                connection.execute(
                    "DELETE FROM states WHERE subsystem = ? AND name = ? AND key = ?",
                    (check.subsystem, check.name, key),
                )
            else:
                row = (check.subsystem, check.name, key, state)
                connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", row)
        for check, memory in changes.memories.items():
            if memory is None:
                connection.execute(
                    "DELETE FROM memories WHERE subsystem = ? AND name = ?", (check.subsystem, check.name)
                )
            else:
                connection.execute(
                    "INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", (check.subsystem, check.name, memory)
                )
        if changes.alerts or lost:
            self._trim(connection, self._clock.now(), lost)

    def _trim(self, connection: sqlite3.Connection, now: Stamp, lost: Sequence[str] = ()) -> None:
        """Keep the bounds; tell what was dropped for them (*lost*: and before)."""
        limits = self.limits
        losses = before = _losses(connection)
        losses = losses.plus(lost)
        old = self._too_old(connection, now)
        losses = losses.plus((identity for _, identity in old), old=True)
        _delete(connection, (seq for seq, _ in old))
        full = self._surplus(connection, told=losses != before)
        losses = losses.plus(record.identity for record in full)
        _delete(connection, (record.seq for record in full))
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
        if losses != before:
            log.warning("%d alerts dropped (%d ever)", losses.ever - before.ever, losses.ever)
            # Not changed in place: the sender may be about to say that the old number arrived.
            connection.execute("DELETE FROM alerts WHERE own = ? AND state = 'waiting'", (_LOSS,))
            _insert(connection, losses.alert(), now, _LOSS)
            _set_losses(connection, losses)

    def _too_old(self, connection: sqlite3.Connection, now: Stamp) -> list[tuple[int, str]]:
        """Those at the head that have waited for too long; what tells of losses is never too old."""
        found: list[tuple[int, str]] = []
        if self.limits.age <= 0:
            return found
        for seq, identity, *at in connection.execute(
            "SELECT seq, identity, boot_id, boottime, wall, known FROM alerts "
            "WHERE state = 'waiting' AND own != ? ORDER BY seq",
            (_LOSS,),
        ):
            if age(_stamp(*at), now) <= self.limits.age:
                break
            found.append((seq, identity))
        return found

    def _surplus(self, connection: sqlite3.Connection, *, told: bool) -> list[Waiting]:
        count, size = connection.execute(
            "SELECT count(*), total(size) FROM alerts WHERE state = 'waiting'"
        ).fetchone()
        if count <= self.limits.count and size <= MAX_SIZE and not told:
            return []
        waiting = [
            Waiting(seq, identity, bool(bad), length)
            for seq, identity, bad, length in connection.execute(
                "SELECT seq, identity, bad, size FROM alerts "
                "WHERE state = 'waiting' AND own != ? ORDER BY seq",
                (_LOSS,),
            )
        ]
        told_last = connection.execute(
            "SELECT identity, bad, max(seq) FROM alerts "
            "WHERE state != 'waiting' AND state = 'sent' GROUP BY identity"
        )
        bad_before = {identity for identity, bad, _ in told_last if bad}
        # One place is for the alert that tells of the loss.
        room = max(self.limits.count - 1, 1)
        return shedding.surplus(waiting, count=room, size=MAX_SIZE, bad_before=bad_before)

    def _bound_held(self) -> None:
        waiting = [
            Waiting(number, shedding.identity(alert), alert.level != OK, len(wire.to_text(alert)))
            for number, (alert, _) in enumerate(self._held.alerts)
        ]
        dropped = shedding.surplus(waiting, count=max(self.limits.count, 1), size=_MAX_HELD)
        gone = {record.seq for record in dropped}
        self._held.alerts = [pair for number, pair in enumerate(self._held.alerts) if number not in gone]
        self._held_losses += [record.identity for record in dropped]

    def _tell_replaced(self, connection: sqlite3.Connection, aside: Path) -> None:
        alert = shedding.own_alert(
            "The monitor's outbox was damaged",
            "damaged",
            f"{self._path} could not be read and was moved to {aside.name}. "
            "Alerts that were not sent yet are lost.",
        )
        _insert(connection, alert, self._clock.now(), _OWN)


def _insert(connection: sqlite3.Connection, alert: Alert, at: Stamp, own: int = _PLAIN) -> None:
    alert = wire.bounded(alert)
    body = wire.to_text(alert).encode()
    _insert_body(connection, body, at, own, identity=shedding.identity(alert), bad=alert.level != OK)


def _insert_body(
    connection: sqlite3.Connection, body: bytes, at: Stamp, own: int, *, identity: str, bad: bool
) -> None:
    connection.execute(
        "INSERT INTO alerts (state, own, identity, bad, size, boot_id, boottime, wall, known, body) "
        "VALUES ('waiting', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (own, identity, bad, len(body), at.boot_id, at.boottime, at.wall, at.known, body),
    )


def _delete(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    connection.executemany("DELETE FROM alerts WHERE seq = ?", ((seq,) for seq in seqs))


def _records(rows: Iterable[Row], *, every: bool = False) -> tuple[list[Record], list[int]]:
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
        found.append(Record(seq, alert, _stamp(boot_id, boottime, wall, known), state, sent, reason))
    return found, damaged


def _stamp(boot_id: str, boottime: float, wall: float, known: int) -> Stamp:
    return Stamp(boot_id, boottime, wall, bool(known))


def _meta(connection: sqlite3.Connection, key: str) -> str:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row is not None else ""


def _set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _losses(connection: sqlite3.Connection) -> Losses:
    return Losses.from_text(_meta(connection, _LOSSES))


def _set_losses(connection: sqlite3.Connection, losses: Losses) -> None:
    _set_meta(connection, _LOSSES, losses.to_text())
