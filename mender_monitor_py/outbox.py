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

from mender_monitor_py import outboxbounds, shedding, wire
from mender_monitor_py import outboxrows as rows
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.database import Database
from mender_monitor_py.model import OK, Alert, CheckId, Stamp
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
from mender_monitor_py.shedding import Waiting

__all__ = ["SENT", "SET_ASIDE", "WAITING", "Changes", "Counts", "Limits", "Outbox", "Record"]

log = logging.getLogger(__name__)

_MAX_HELD = 2 * 1024 * 1024  # bytes of alerts that wait in memory


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
        self._database = Database(path, rows.SCHEMA, rows.VERSION, rows.ADDED, self._tell_replaced)
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
            rows.insert_body(connection, body, at, rows.PLAIN, identity="raw record", bad=False)
            outboxbounds.trim(connection, self.limits, self._clock.now())

        self._database.write(work)

    def keys(self) -> list[int]:
        """The numbers of all that waits, oldest first, but for the outbox's own alerts."""
        query = "SELECT seq FROM alerts WHERE state = 'waiting' AND own = ? ORDER BY seq"
        found = self._database.read(lambda connection: connection.execute(query, (rows.PLAIN,)).fetchall())
        return [seq for (seq,) in found]

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
        found = self._database.read(lambda connection: connection.execute(query).fetchall())
        return {(CheckId(subsystem, name), key): state for subsystem, name, key, state in found}

    def memories(self) -> dict[CheckId, str]:
        """What each check remembers."""
        query = "SELECT subsystem, name, memory FROM memories"
        found = self._database.read(lambda connection: connection.execute(query).fetchall())
        return {CheckId(subsystem, name): memory for subsystem, name, memory in found}

    def forget(self, check: CheckId) -> None:
        """Delete the states and the memory of *check*."""

        def work(connection: sqlite3.Connection) -> None:
            for table in ("states", "memories"):
                connection.execute(
                    f"DELETE FROM {table} WHERE subsystem = ? AND name = ?",  # noqa: S608
                    (check.subsystem, check.name),
                )

        self._database.write(work)

    def head(self, count: int, size: int = outboxbounds.MAX_SIZE) -> list[Record]:
        """The first alerts that wait: at most *count* of *size* bytes together, but at least one."""
        query = f"SELECT {rows.COLUMNS} FROM alerts WHERE state = 'waiting' ORDER BY seq LIMIT ?"  # noqa: S608

        def work(connection: sqlite3.Connection) -> list[rows.Row]:
            found: list[rows.Row] = []
            total = 0
            for row in connection.execute(query, (count,)):
                total += row[-1]
                if found and total > size:
                    break
                found.append(row)
            return found

        found, damaged = rows.to_records(self._database.read(work))
        for seq in damaged:
            self.set_aside(seq, "it cannot be read: it is no alert")
        return found if found or not damaged else self.head(count, size)

    def records(self, state: str = WAITING, *, limit: int = -1) -> list[Record]:
        """The stored alerts in *state*, oldest first."""
        query = f"SELECT {rows.COLUMNS} FROM alerts WHERE state = ? ORDER BY seq LIMIT ?"  # noqa: S608
        found = self._database.read(lambda connection: connection.execute(query, (state, limit)).fetchall())
        records = rows.to_records(found, every=True)[0]
        if state != SENT:
            return records
        now = self._clock.now().wall  # they are deleted with the next batch that is sent
        return [record for record in records if abs(now - record.sent) <= self.limits.history]

    def record(self, seq: int) -> Record | None:
        """One stored alert, in whatever state."""
        query = f"SELECT {rows.COLUMNS} FROM alerts WHERE seq = ?"  # noqa: S608
        found = self._database.read(lambda connection: connection.execute(query, (seq,)).fetchall())
        return next(iter(rows.to_records(found, every=True)[0]), None)

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
                if own == rows.LOSS:
                    rows.set_losses(connection, rows.losses(connection).told())
                if own != rows.PLAIN:
                    rows.insert(connection, shedding.cleared(wire.from_text(body)), now)
            outboxbounds.trim(connection, self.limits, now)
            outboxbounds.trim_history(connection, self.limits, now)

        seqs_sent = list(seqs)
        self._database.write(work)

    def set_aside(self, seq: int, reason: str) -> None:
        """The server will never take this one: keep it apart, with the *reason*, for a person to see."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE alerts SET state = 'set aside', reason = ? WHERE seq = ? AND state = 'waiting'",
                (reason, seq),
            )
            outboxbounds.trim_history(connection, self.limits, self._clock.now())

        self._database.write(work)

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
                dropped=rows.losses(connection).ever,
                held=len(self._held.alerts),
                oldest=rows.stamp(*oldest) if oldest is not None else None,
            )

        return self._database.read(work)

    def meta(self, key: str) -> str:
        """A value of the program's own; empty when there is none."""
        return self._database.read(lambda connection: rows.meta(connection, key))

    def metas(self, prefix: str) -> dict[str, str]:
        """The values whose keys begin with *prefix*."""
        return self._database.read(lambda connection: rows.metas(connection, prefix))

    def set_meta(self, key: str, value: str) -> None:
        """Keep *value*; an empty one deletes."""
        self._database.write(lambda connection: rows.set_meta(connection, key, value))

    def settle(self, now: Stamp) -> None:
        """
        The clock was set: write down the right times of what waits, before a reboot makes them unknown.

        Writes only if there is something to correct.
        """
        if not now.known:
            return
        query = "SELECT seq, boot_id, boottime, wall, known FROM alerts WHERE state = 'waiting'"

        def wrong(connection: sqlite3.Connection) -> list[tuple[float, int]]:
            stamps = [(seq, rows.stamp(*row)) for seq, *row in connection.execute(query)]
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
        if self._database.read(lambda connection: outboxbounds.too_old(connection, self.limits, now)):
            self._database.write(lambda connection: outboxbounds.trim(connection, self.limits, now))

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        self._database.close()

    def _apply(self, connection: sqlite3.Connection, changes: Changes, lost: Sequence[str]) -> None:
        now = self._clock.now()
        for alert, at in changes.alerts:
            rows.insert(connection, alert, at, delay=max(age(at, now), 0.0))
        rows.write_states(connection, changes)
        if changes.alerts or lost:
            outboxbounds.trim(connection, self.limits, now, lost)

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
        rows.insert(connection, alert, self._clock.now(), rows.OWN)
