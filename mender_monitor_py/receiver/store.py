"""What the receiver keeps: devices, their alerts and their check configurations, in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from mender_monitor_py.model import OK, Alert, Details, Line, Subject
from mender_monitor_py.receiver.validation import TimedAlert

MAX_DEVICES = 1000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS devices (
    id TEXT PRIMARY KEY, identity TEXT NOT NULL, status TEXT NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS configs (device TEXT PRIMARY KEY, received REAL NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS inventories (device TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS alerts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL, received REAL NOT NULL,
    timestamp TEXT NOT NULL, seconds REAL NOT NULL, name TEXT NOT NULL, level TEXT NOT NULL,
    subject TEXT NOT NULL, type TEXT NOT NULL, status TEXT NOT NULL, details TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS alerts_by_time ON alerts (device, seconds, seq);
"""
# The server knows an alert by its name and subject; the status differs between CRITICAL and OK.
_LATEST = """
SELECT * FROM (
    SELECT *, row_number() OVER (
        PARTITION BY device, name, subject, type ORDER BY seconds DESC, seq DESC) AS age
    FROM alerts WHERE device = ?1 OR ?1 = '') WHERE age = 1 ORDER BY seconds DESC, seq DESC
"""


@dataclass(frozen=True)
class Device:
    """A device that asked for authentication. Tokens of an older *generation* are revoked."""

    id: str
    identity: str
    status: str
    generation: int


@dataclass(frozen=True)
class Received:
    """An alert as it came: *seq* counts all alerts, *received* and *seconds* are since the epoch."""

    seq: int
    device: str
    received: float
    timestamp: str
    seconds: float
    alert: Alert

    def as_json(self) -> dict[str, Any]:
        """The alert as the management API tells it: what the device sent, with an id and the device's."""
        subject, details = self.alert.subject, self.alert.details
        told: dict[str, Any] = {"description": details.description}
        if details.line_matching:
            told["line_matching"] = _line(details.line_matching)
        told["lines_before"] = [_line(line) for line in details.lines_before]
        told["lines_after"] = [_line(line) for line in details.lines_after]
        return {
            "id": str(self.seq),
            "device_id": self.device,
            "name": self.alert.name,
            "level": self.alert.level,
            "timestamp": self.timestamp,
            "subject": {
                "name": subject.name,
                "type": subject.type,
                "status": subject.status,
                "details": told,
            },
        }


class Store:
    """
    One SQLite file, or memory for an empty *path*.

    The newest *max_alerts* are kept and at most MAX_DEVICES devices.
    """

    def __init__(self, path: str, max_alerts: int) -> None:
        self._max_alerts = max_alerts
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def secret(self, name: str, fresh: bytes) -> bytes:
        """The secret *name*; *fresh* when there is none yet."""
        self._db.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, fresh))
        found: bytes = self._db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()[0]
        return found

    def device(self, device: str) -> Device | None:
        row = self._db.execute("SELECT * FROM devices WHERE id = ?", (device,)).fetchone()
        return Device(**row) if row else None

    def devices(self) -> list[Device]:
        return [Device(**row) for row in self._db.execute("SELECT * FROM devices ORDER BY rowid")]

    def add_device(self, device: str, identity: str, status: str) -> bool:
        """Add a new device. False: there are too many."""
        with self._transaction():
            (count,) = self._db.execute("SELECT count(*) FROM devices").fetchone()
            if count >= MAX_DEVICES:
                return False
            self._db.execute("INSERT INTO devices VALUES (?, ?, ?, 0)", (device, identity, status))
        return True

    def set_status(self, device: str, status: str) -> bool:
        """Accept or reject a device. False: there is none of that id."""
        done = self._db.execute("UPDATE devices SET status = ? WHERE id = ?", (status, device))
        return done.rowcount > 0

    def revoke(self, device: str) -> bool:
        """Make every token that *device* holds invalid. False: there is none of that id."""
        done = self._db.execute("UPDATE devices SET generation = generation + 1 WHERE id = ?", (device,))
        return done.rowcount > 0

    def add_alerts(self, device: str, alerts: Sequence[TimedAlert], received: float) -> list[Received]:
        """Keep *alerts* of *device*, in their order; the oldest of all make room."""
        kept = []
        with self._transaction():
            for item in alerts:
                alert = item.alert
                added = self._db.execute(
                    "INSERT INTO alerts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (device, received, item.timestamp, item.seconds, alert.name, alert.level,
                     alert.subject.name, alert.subject.type, alert.subject.status,
                     json.dumps(asdict(alert.details))),
                )  # fmt: skip
                seq = added.lastrowid or 0
                kept.append(Received(seq, device, received, item.timestamp, item.seconds, alert))
            self._db.execute(
                "DELETE FROM alerts WHERE seq <= (SELECT max(seq) FROM alerts) - ?", (self._max_alerts,)
            )
        return kept

    def alerts(
        self,
        device: str = "",
        *,
        after: float | None = None,
        before: float | None = None,
        ascending: bool = False,
        page: int = 1,
        per_page: int = 20,
    ) -> tuple[list[Received], int]:
        """
        A page of the alerts of *device* (empty: of all), by their own time, and how many there are.

        *after* and *before* are seconds since the epoch, both inclusive.
        """
        where = "(device = ?1 OR ?1 = '') AND (?2 IS NULL OR seconds >= ?2) AND (?3 IS NULL OR seconds <= ?3)"
        (count,) = self._db.execute(
            f"SELECT count(*) FROM alerts WHERE {where}", (device, after, before)  # noqa: S608
        ).fetchone()  # fmt: skip
        order = "ASC" if ascending else "DESC"
        rows = self._db.execute(
            f"SELECT * FROM alerts WHERE {where} ORDER BY seconds {order}, seq {order} LIMIT ?4 OFFSET ?5",  # noqa: S608
            (device, after, before, per_page, (page - 1) * per_page),
        )
        return [_received(row) for row in rows], count

    def alert(self, seq: int) -> Received | None:
        row = self._db.execute("SELECT * FROM alerts WHERE seq = ?", (seq,)).fetchone()
        return _received(row) if row else None

    def latest(self, device: str = "") -> list[Received]:
        """The newest alert of each name and subject, the newest first: the state of things."""
        return [_received(row) for row in self._db.execute(_LATEST, (device,))]

    def alert_count(self, device: str) -> int:
        """How many of the latest alerts of *device* are not OK."""
        return sum(received.alert.level != OK for received in self.latest(device))

    def set_config(self, device: str, configs: list[dict[str, Any]], received: float) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO configs VALUES (?, ?, ?)", (device, received, json.dumps(configs))
        )

    def config(self, device: str) -> list[dict[str, Any]] | None:
        """What *device* said last that it checks; None: it never said."""
        row = self._db.execute("SELECT body FROM configs WHERE device = ?", (device,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_inventory(self, device: str, attributes: dict[str, Any]) -> None:
        self._db.execute("INSERT OR REPLACE INTO inventories VALUES (?, ?)", (device, json.dumps(attributes)))

    def inventory(self, device: str) -> dict[str, Any]:
        """The attributes that *device* sent last, by name."""
        row = self._db.execute("SELECT body FROM inventories WHERE device = ?", (device,)).fetchone()
        return dict(json.loads(row[0])) if row else {}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield


def _received(row: sqlite3.Row) -> Received:
    fields = json.loads(row["details"])
    matching = fields["line_matching"]
    details = Details(
        fields["description"],
        tuple(Line(**line) for line in fields["lines_before"]),
        Line(**matching) if matching else None,
        tuple(Line(**line) for line in fields["lines_after"]),
    )
    subject = Subject(row["subject"], row["type"], row["status"])
    alert = Alert(row["name"], row["level"], subject, details)
    return Received(row["seq"], row["device"], row["received"], row["timestamp"], row["seconds"], alert)


def _line(line: Line) -> dict[str, Any]:
    return {"line_number": line.number, "data": line.data}
