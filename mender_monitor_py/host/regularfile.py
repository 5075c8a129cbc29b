"""Opens files that somebody else has named or made: nothing but a regular one, and without waiting for it."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

# A pipe without a writer would be waited for, a terminal would become ours; see open(2).
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_regular(path: str | Path, *, follow: bool = True) -> BufferedReader:
    """
    The regular file at *path*, to be read; not *follow*: a link is none.

    Raises OSError, with EINVAL for a folder, a pipe, a device.
    """
    descriptor = os.open(path, _FLAGS if follow else _FLAGS | os.O_NOFOLLOW)
    # os.fdopen() of a folder raises, and leaves the descriptor open.
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))
