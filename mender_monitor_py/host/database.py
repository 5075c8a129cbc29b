"""
A SQLite file that several processes share, durable on return, and replaced when it is damaged.

In WAL mode with synchronous=FULL the WAL is synced at each commit (sqlite.org/pragma.html): one flush a
transaction. Readers write nothing.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mender_monitor_py.errors import OutboxError

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
_KEPT_DAMAGED = 2
_ATTEMPTS = 3
# The result codes of sqlite.org/rescode.html that say: this file is beyond use.
_DAMAGED = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}
_DAMAGED_EXTENDED = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
}
_ADVICE = {
    sqlite3.SQLITE_FULL: "no space is left: free some on that file system",
    sqlite3.SQLITE_READONLY: "it cannot be written: see that you are root, and the file system not read-only",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: see that you are root, and the file system not read-only",
    sqlite3.SQLITE_PERM: "it may not be opened: run as root",
    sqlite3.SQLITE_BUSY: f"another process has held it for {BUSY_TIMEOUT:g} s",
    sqlite3.SQLITE_IOERR: "the file system fails: look at the kernel's log",
}
_ADVICE_ERRNO = {
    errno.EROFS: "it is on a read-only file system: make its folder a link to a data partition",
    errno.EACCES: "it may not be opened: run as root",
    errno.EPERM: "it may not be opened: run as root",
    errno.ENOSPC: "no space is left: free some on that file system",
}
_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -128",  # KiB; the kernel caches the file anyway
    "PRAGMA wal_autocheckpoint = 1000",  # pages: a longer WAL folds more changes of a page into one
    "PRAGMA journal_size_limit = 4194304",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
)


class Database:
    """
    One file, opened when it is first needed.

    *schema* is run on a new file; its version is *version*. *added* are columns, as table, name and
    declaration, that an older file of that version gets; programs that do not know them go on. *on_replaced*
    is called in the transaction that makes a new file in the place of a damaged one, with where that was
    moved. Safe for threads.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        version: int,
        added: Sequence[tuple[str, str, str]],
        on_replaced: Callable[[sqlite3.Connection, Path], None],
    ) -> None:
        self._path = path
        self._schema = schema
        self._version = version
        self._added = added
        self._on_replaced = on_replaced
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What *work* finds, in one consistent view. Raises OutboxError."""
        return self._do("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """
        What *work* gives, its changes durable.

        *work* may be called again when the file was replaced meanwhile. Raises OutboxError; nothing of
        the work is kept then.
        """
        return self._do("BEGIN IMMEDIATE", work)

    def close(self) -> None:
        """The last process that closes it folds the WAL into the file."""
        with self._lock:
            self._close()

    def _do(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    connection = self._open()
                    result = _transaction(connection, begin, work)
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        self._close()
                        raise self._error(error) from error
                    self._replace(error)
                except OSError as error:
                    self._close()
                    raise OutboxError(
                        f"{self._path}: {_ADVICE_ERRNO.get(error.errno or 0, error)}"
                    ) from error
                else:
                    # Another process may have moved the file aside while this one wrote into it.
                    if self._is_current():
                        return result
                    self._close()
            self._close()
            raise OutboxError(f"{self._path}: it is damaged, and a new one cannot be made")

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        with _locked(self._made_folder()):
            return self._connect(None)

    def _made_folder(self) -> Path:
        # The folder may be a link to a data partition, whose target is still to be made.
        folder = self._path.parent.resolve()
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _connect(self, replaced: Path | None) -> sqlite3.Connection:
        with suppress(FileExistsError):  # the files beside it get its mode
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        try:
            for setting in _SETTINGS:
                connection.execute(setting)
            self._check_schema(connection, replaced)
        except (sqlite3.Error, OutboxError):
            connection.close()
            raise
        self._connection, self._inode = connection, _inode(self._path)
        return connection

    def _check_schema(self, connection: sqlite3.Connection, replaced: Path | None) -> None:
        found = _version(connection)
        if found == self._version and not self._lacking(connection):
            return
        if found > self._version:
            raise OutboxError(
                f"{self._path}: it was written by a newer version of this program (format {found}, this one "
                f"knows {self._version}): install that version again, or move the file away"
            )

        def make(connection: sqlite3.Connection) -> None:
            if _version(connection) == 0:  # else another process was faster
                for statement in self._schema.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {self._version}")
                if replaced is not None:
                    self._on_replaced(connection, replaced)
            for table, column, declaration in self._lacking(connection):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {declaration}")

        _transaction(connection, "BEGIN IMMEDIATE", make)

    def _lacking(self, connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
        """The added columns that the file does not have."""
        query = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
        return [one for one in self._added if not connection.execute(query, one[:2]).fetchone()]

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        """Move the damaged file aside and make a new one. Raises OSError, sqlite3.Error and OutboxError."""
        damaged = self._inode
        self._close()
        try:
            folder = self._made_folder()
            with _locked(folder):
                if damaged is not None and _inode(self._path) != damaged:
                    return  # another process has replaced it
                aside = self._path.with_name(f"{self._path.name}.corrupt-{time.time_ns() // 1_000_000}")
                # The WAL goes first: a new file must never meet the old one's WAL.
                for suffix in ("-wal", "-shm", ""):
                    source = self._path.with_name(self._path.name + suffix)
                    if source.exists():
                        source.rename(aside.with_name(aside.name + suffix))
                self._remove_old_damaged(folder)
                log.error(
                    "%s is damaged (%s); moved to %s, a new one is started", self._path, error, aside.name
                )
                self._connect(aside)
        except OSError as failure:
            raise OutboxError(
                f"{self._path}: it is damaged ({error}), and cannot be moved: {failure}"
            ) from failure
        except sqlite3.DatabaseError as failure:
            raise self._error(failure) from failure

    def _remove_old_damaged(self, folder: Path) -> None:
        found = sorted(folder.glob(f"{self._path.name}.corrupt-*"))
        names = sorted({path.name.removesuffix("-wal").removesuffix("-shm") for path in found})
        for path in found:
            if path.name.removesuffix("-wal").removesuffix("-shm") in names[:-_KEPT_DAMAGED]:
                path.unlink(missing_ok=True)

    def _is_current(self) -> bool:
        return self._inode is not None and _inode(self._path) == self._inode

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._inode = None

    def _error(self, error: sqlite3.DatabaseError) -> OutboxError:
        advice = _ADVICE.get(_code(error) & 0xFF)
        return OutboxError(f"{self._path}: {advice} ({error})" if advice else f"{self._path}: {error}")


def _transaction(connection: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time makes or replaces the file. The lock leaves nothing behind."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
        os.fsync(fd)  # the name of a new file is durable too
    finally:
        os.close(fd)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _code(error: sqlite3.DatabaseError) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return _code(error) & 0xFF in _DAMAGED or _code(error) in _DAMAGED_EXTENDED
