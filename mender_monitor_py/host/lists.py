"""Lists of expected things on the disk: read whole, and only when nobody else could have written them."""

from __future__ import annotations

import os
from pathlib import Path

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.regularfile import open_regular

MAX_SIZE = 32 * 1024 * 1024


def read_list(path: Path) -> bytes | None:
    """
    The bytes of the list *path*; None: there is none.

    Raises UnknownError when it cannot be read, is too big, or is open to other users while we are root.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnknownError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        found = os.fstat(file.fileno())
        if os.geteuid() == 0 and (found.st_uid != 0 or found.st_mode & 0o022):
            raise UnknownError(f"{path} can be written by another user than root: chown root, chmod go-w")
        if found.st_size > MAX_SIZE:
            raise UnknownError(f"{path} has more than {MAX_SIZE >> 20} MiB")
        try:
            return file.read(MAX_SIZE)
        except OSError as error:
            raise UnknownError(f"{path} cannot be read: {error.strerror}") from error
