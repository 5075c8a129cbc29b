"""Small files that scripts leave for the daemon, in a folder on the data partition."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOST = 256


def read(folder: Path, limit: int) -> Iterator[tuple[Path, bytes, float]]:
    """
    The files in *folder*: path, at most *limit* + 1 bytes of content, age in seconds; by their names.

    No folder: none. Links and other things that are no files are removed, files that cannot be read left out.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry, _ in zip(entries, range(_MOST), strict=False))
    except OSError:
        return
    now = time.time()
    for name in names:
        path = folder / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                remove(path)
            continue
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                remove(path)
                continue
            yield path, os.read(fd, limit + 1), now - status.st_mtime
        except OSError:
            continue
        finally:
            os.close(fd)


def remove(path: Path) -> None:
    """It was taken over. One that stays is met again, and is no news then."""
    with suppress(OSError):
        path.unlink()
