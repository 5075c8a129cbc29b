"""When a file was made, by statx(2): unlike its other times nobody can set that, and chmod(2) leaves it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# <linux/stat.h>
_STATX_BTIME = 0x800
_AT_EMPTY_PATH, _AT_FDCWD = 0x1000, -100
_STATX = struct.Struct("=I76xqI164x")  # struct statx: stx_mask, and of stx_btime the seconds and nanoseconds

_libc = ctypes.CDLL(None, use_errno=True)


def birth_time(file: str | int) -> float | None:
    """
    When the file at a path, or of a descriptor, was made: seconds since the epoch. Links are followed.

    None: its file system does not keep that, or there is no statx (Linux 4.11, glibc 2.28). Raises OSError.
    """
    if not hasattr(_libc, "statx"):
        return None
    folder, path = (_AT_FDCWD, os.fsencode(file)) if isinstance(file, str) else (file, b"")
    found = ctypes.create_string_buffer(_STATX.size)
    if _libc.statx(folder, path, _AT_EMPTY_PATH if not path else 0, _STATX_BTIME, found) < 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return None
        raise OSError(number, os.strerror(number))
    mask, seconds, nanoseconds = _STATX.unpack(found)
    return seconds + nanoseconds / 1e9 if mask & _STATX_BTIME else None
