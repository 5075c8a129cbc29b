"""
The update client's store, an LMDB file, for a look that the client never notices.

Nothing is locked and nothing written. A writer of LMDB does not touch the pages of the newest snapshot, nor
those of the one before (lmdb.h: "MVCC ... readers run with no locks"): what was read while no new snapshot
came is whole. A reader in the lock table would be told to the client, and stay in its way after a crash.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from mender_monitor_py import lmdbpages
from mender_monitor_py.errors import UnknownError

NAME = "mender-store"
# Keys of the store: context.cpp of the newer client, dbkeys.go of the older one.
STATE, STANDALONE, ARTIFACT = b"state", b"standalone-state", b"artifact-name"
_KEYS = frozenset((STATE, STANDALONE, ARTIFACT))
_HEAD = 131_072  # two pages of the largest size
_ATTEMPTS = 5


class AbsentError(UnknownError):
    """There is no store: no update client has run here."""


def read(path: Path) -> dict[bytes, bytes]:
    """
    What the store at *path* has for the keys that are known here.

    Raises AbsentError when it is not there, UnknownError when it is something else, is damaged, or never
    rests.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise AbsentError(f"no update client has run here: {path} is not there") from None
    except OSError as error:
        raise UnknownError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnknownError(f"{path} is not a regular file")
        return _read(fd, path)
    except ValueError as error:
        raise UnknownError(f"{path} cannot be read as the update client's store: {error}") from error
    except OSError as error:
        raise UnknownError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)


def _read(fd: int, path: Path) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    damage: ValueError | None = None
    for _ in range(_ATTEMPTS):
        meta = lmdbpages.newest(os.pread(fd, _HEAD, 0))
        try:
            found, damage = lmdbpages.values(meta, _pages(fd, meta.page_size), _KEYS), None
        except ValueError as error:  # or the pages were overwritten meanwhile
            damage = error
        if lmdbpages.newest(os.pread(fd, _HEAD, 0)).txnid == meta.txnid:
            break
    else:
        raise UnknownError(f"{path} is written to all the time")
    if damage is not None:
        raise damage
    return found


def _pages(fd: int, size: int) -> Callable[[int, int], bytes]:
    return lambda number, count: os.pread(fd, count * size, number * size)
