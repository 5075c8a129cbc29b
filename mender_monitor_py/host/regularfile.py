"""Opens files that somebody else has named or made: nothing but a regular one, and without waiting for it."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A pipe without a writer would be waited for, a terminal would become ours; see open(2).
FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_harmless(path: str | Path, *, follow: bool = True) -> int:
    """
    A descriptor of what is at *path*: to be read when it is a regular file, else only to be looked at.

    To open a device may have it do something: a watchdog is started, a tape rewound. Who may make a link in a
    folder of his own must not bring that about. *follow* as in :func:`open_regular`. Raises OSError.
    """
    there = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(there).st_mode):
        return there
    try:
        return os.open(f"/proc/self/fd/{there}", FLAGS)
    except FileNotFoundError:  # no /proc, as where an image is built
        return os.open(path, FLAGS | os.O_NOFOLLOW if not follow else FLAGS)
    finally:
        os.close(there)


def open_regular(path: str | Path, *, follow: bool = True) -> BufferedReader:
    """
    The regular file at *path*, to be read; not *follow*: a link is none.

    Raises OSError, with EINVAL for a folder, a pipe, a device, and ELOOP for a link.
    """
    descriptor = open_harmless(path, follow=follow)
    # os.fdopen() of a folder raises, and leaves the descriptor open.
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))
