"""
Files that are opened for execution, by fanotify(7): the event holds the file itself, and the pid.

The process connector tells that a process executes, this tells what: also of a process that is gone before
/proc can be read. Notification only: nothing waits for us. Needs CAP_SYS_ADMIN and Linux 5.0.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.filesystems import VIRTUAL
from mender_monitor_py.host.mounts import Mount
from mender_monitor_py.proclist import Opened

# <linux/fanotify.h>
_FAN_CLOEXEC, _FAN_NONBLOCK, _FAN_CLASS_NOTIF = 0x1, 0x2, 0x0
_FAN_MARK_ADD, _FAN_MARK_FILESYSTEM, _FAN_MARK_MOUNT = 0x1, 0x100, 0x10
_FAN_OPEN_EXEC, _FAN_Q_OVERFLOW = 0x1000, 0x4000
_AT_FDCWD = -100
_O_NOATIME, _O_LARGEFILE = getattr(os, "O_NOATIME", 0), getattr(os, "O_LARGEFILE", 0)
_EVENT = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_READ_SIZE = 8192
_READS = 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_char_p,
)


class ExecOpens:
    """
    Marks on all file systems of *mounts*. Raises UnknownError when there will be no events.

    *lost* counts how often the kernel's queue was full.
    """

    def __init__(self) -> None:
        self._fd: int = _libc.fanotify_init(
            _FAN_CLASS_NOTIF | _FAN_CLOEXEC | _FAN_NONBLOCK,
            os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | _O_LARGEFILE | _O_NOATIME,
        )
        if self._fd < 0:
            raise UnknownError(_reason(ctypes.get_errno()))
        self._marked: set[str] = set()
        self.lost = 0
        self.unmarked: list[str] = []

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def mark(self, mounts: Iterable[Mount]) -> None:
        """
        Have events of the file systems of *mounts*; those that are marked already stay so.

        *unmarked* are the paths where that was refused. Raises UnknownError when it was everywhere.
        """
        by_device = {mount.device: mount for mount in mounts if mount.kind not in VIRTUAL}
        self._marked &= by_device.keys()
        self.unmarked = []
        number = 0
        for device, mount in by_device.items():
            if device in self._marked:
                continue
            # One mark a file system sees every mount of it, in all mount namespaces (Linux 4.20).
            number = self._mark(_FAN_MARK_FILESYSTEM, mount.path) and self._mark(_FAN_MARK_MOUNT, mount.path)
            if number:
                self.unmarked.append(mount.path)
            else:
                self._marked.add(device)
        if not self._marked:
            raise UnknownError(_reason(number))

    def read(self) -> list[Opened]:
        """What was opened, in order. More may wait."""
        found: list[Opened] = []
        for _ in range(_READS):
            try:
                data = os.read(self._fd, _READ_SIZE)
            except BlockingIOError:
                break
            except OSError:
                # A file that cannot be opened for us (ETXTBSY, EMFILE, ENXIO on some file systems) costs its
                # event; what is behind it in the queue comes with the next read.
                self.lost += 1
                continue
            found += self._parse(data)
            if len(data) <= _READ_SIZE - _EVENT.size:
                break  # there was room for more
        return found

    def _parse(self, data: bytes) -> Iterator[Opened]:
        for offset in range(0, len(data) - _EVENT.size + 1, _EVENT.size):
            _, _, _, _, mask, fd, pid = _EVENT.unpack_from(data, offset)
            if mask & _FAN_Q_OVERFLOW:
                self.lost += 1
            if fd < 0:
                continue
            try:
                status = os.fstat(fd)
                path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
                yield Opened(pid, path, os.pread(fd, 4, 0), status.st_dev, status.st_ino)
            except OSError:
                self.lost += 1
            finally:
                os.close(fd)

    def _mark(self, kind: int, path: str) -> int:
        """0, or the number of the error."""
        flags = _FAN_MARK_ADD | kind
        if _libc.fanotify_mark(self._fd, flags, _FAN_OPEN_EXEC, _AT_FDCWD, os.fsencode(path)) == 0:
            return 0
        return ctypes.get_errno()


def _reason(number: int) -> str:
    if number == errno.EPERM:
        return "not permitted to see what is executed (fanotify): CAP_SYS_ADMIN"
    if number in (errno.ENOSYS, errno.EINVAL):
        return "this kernel does not tell what is executed (fanotify FAN_OPEN_EXEC, Linux 5.0)"
    return f"fanotify: {os.strerror(number)}"
