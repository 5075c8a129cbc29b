"""What is in a file now, and who else may write to it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os

from mender_monitor_py.deployed import Content
from mender_monitor_py.host.birthtime import birth_time
from mender_monitor_py.host.regularfile import open_regular

_CHUNK = 1024 * 1024


def read_content(path: str) -> Content:
    """The file at *path* as it is now. Raises OSError."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open_regular(path) as file:
        status, born = os.fstat(file.fileno()), birth_time(file.fileno())
        while data := file.read(_CHUNK):
            sha256.update(data)
            md5.update(data)
        again = os.fstat(file.fileno())
        open_to_others = again.st_nlink > 1 or _is_open_for_writing(file.fileno())
    if (status.st_ctime_ns, status.st_size) != (again.st_ctime_ns, again.st_size):
        raise OSError("it is being written")
    # A link that leads to another file by now was changed when it was made.
    changed = max(status.st_ctime, os.lstat(path).st_ctime)
    return Content(
        sha256.hexdigest(),
        md5.hexdigest(),
        status.st_mode & 0o7777,
        changed,
        str(status.st_dev),
        (os.path.realpath(path), entry_of(path)),
        open_to_others,
        born,
    )


def entry_of(path: str) -> str:
    """*path*, its folder without links."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))  # noqa: PTH118, PTH119, PTH120


def _is_open_for_writing(descriptor: int) -> bool:
    """By asking for a read lease, which is not given then: see fcntl(2). Not every file system has them."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False
