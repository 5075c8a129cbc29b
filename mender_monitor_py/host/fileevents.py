"""
What is made, moved, written, removed, or changed in its attributes anywhere on a file system, by fanotify(7).

One mark a file system, however many folders it has. The event names the folder by a handle, and the pid of
who did it. Notification only: nothing waits for us. Needs CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH and Linux 5.9.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.mounts import Mount

# <linux/fanotify.h>
_FAN_CLOEXEC, _FAN_NONBLOCK, _FAN_CLASS_NOTIF = 0x1, 0x2, 0x0
_FAN_REPORT_DFID_NAME = 0x400 | 0x800
_FAN_MARK_ADD, _FAN_MARK_FILESYSTEM = 0x1, 0x100
_FAN_MODIFY, _FAN_ATTRIB, _FAN_CLOSE_WRITE, _FAN_MOVED_FROM, _FAN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_FAN_CREATE, _FAN_DELETE = 0x100, 0x200
_FAN_Q_OVERFLOW, _FAN_ONDIR = 0x4000, 0x40000000
_INFO_DFID_NAME = 2
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_INFO = struct.Struct("=BBH8sIi")  # its header, fsid, and the begin of struct file_handle
_HANDLE = struct.Struct("=Ii")  # the begin of struct file_handle
_READ_SIZE = 32_768
_PAUSE_S = 0.05  # after writes alone: each write(2) is an event, but for those that wait to be read already
_MOST_READS = 256  # in one go: more than a queue of the usual size has
_MASK = _FAN_ATTRIB | _FAN_MOVED_TO | _FAN_CREATE | _FAN_ONDIR
_ALL = _FAN_MODIFY | _FAN_CLOSE_WRITE | _FAN_MOVED_FROM | _FAN_DELETE
# Not what chmod(2) does, nor who opens a file for writing and writes nothing, as touch(1) does.
_NAMED = _FAN_MOVED_FROM | _FAN_MOVED_TO | _FAN_CREATE | _FAN_DELETE
_MAX_HANDLE = 128  # MAX_HANDLE_SZ, see name_to_handle_at(2)
_O_PATH = getattr(os, "O_PATH", 0)
# statvfs(3) gives the file system's number in a long.
_FSID_BYTES = 8 if sys.maxsize > 2**32 else 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_char_p,
)
_libc.open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_libc.name_to_handle_at.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
)


class Touched(NamedTuple):
    """
    Something at *path* is new, or has other attributes; *pid* did it. *moved*: it was elsewhere before.

    *mode* is what it has now: 0 when it is gone again. *named*: the name was given to a file, or taken from
    one. *modified*: the content was written to, or the time of that was set alone (``touch -m``).
    """

    path: str
    mode: int
    pid: int
    moved: bool
    named: bool = False
    modified: bool = False


class FileEvents:
    """
    Calls *touched* with each event, in the running loop, and *lost* when some were lost. *all_of_it*: also
    when a file is written to, when one that was open for writing is closed, removed or moved away.

    Raises UnknownError when there will be none.
    """

    def __init__(
        self, touched: Callable[[Touched], None], lost: Callable[[], None], *, all_of_it: bool = False
    ) -> None:
        self._mask = _MASK | (_ALL if all_of_it else 0)
        flags = _FAN_CLASS_NOTIF | _FAN_CLOEXEC | _FAN_NONBLOCK | _FAN_REPORT_DFID_NAME
        self._fd: int = _libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC)
        if self._fd < 0:
            raise UnknownError(_reason(ctypes.get_errno()))
        self._touched = touched
        self._lost = lost
        self._marked: dict[bytes, str] = {}  # the number of a file system, and where it is mounted
        self._known: dict[tuple[bytes, bytes], str] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._watch()

    def drain(self) -> None:
        """Call with each event that is there by now."""
        for _ in range(_MOST_READS):
            if not self._read():
                break

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def mark(self, mounts: Iterable[Mount]) -> list[str]:
        """
        Have events of the file systems of *mounts*; gives the paths of those that have none.

        A mark ends when its file system is unmounted. Raises UnknownError when it is not permitted.
        """
        refused, devices = [], set()
        self._marked.clear()
        # Where the whole of a file system is mounted, its folders have their own paths.
        for mount in sorted(mounts, key=lambda mount: mount.root != "/"):
            if mount.device in devices:
                continue
            devices.add(mount.device)
            number = self._mark(mount.path)
            if number == errno.EPERM:
                raise UnknownError(_reason(number))
            if number:
                refused.append(f"{mount.path} ({os.strerror(number)})")
        return refused

    def know(self, folders: Iterable[str]) -> None:
        """What happens in *folders* is told also when they are gone before it is read."""
        for path in folders:
            handle = ctypes.create_string_buffer(_HANDLE.pack(_MAX_HANDLE, 0), _HANDLE.size + _MAX_HANDLE)
            if _libc.name_to_handle_at(_AT_FDCWD, os.fsencode(path), handle, ctypes.c_int(), 0) == 0:
                size, _ = _HANDLE.unpack_from(handle)
                self._known[_fsid(path), handle.raw[: _HANDLE.size + size]] = os.path.realpath(path)

    def _mark(self, path: str) -> int:
        flags = _FAN_MARK_ADD | _FAN_MARK_FILESYSTEM
        try:
            fsid = _fsid(path)
        except OSError as error:
            return error.errno or errno.EIO
        if _libc.fanotify_mark(self._fd, flags, self._mask, _AT_FDCWD, os.fsencode(path)) < 0:
            return ctypes.get_errno()
        self._marked[fsid] = path
        return 0

    def _watch(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _wait(self) -> None:
        """Leave what comes to the kernel for a moment, which makes one event of many writes to a file."""
        loop = asyncio.get_running_loop()
        if self._fd >= 0 and self._pause is None:
            loop.remove_reader(self._fd)
            self._pause = loop.call_later(_PAUSE_S, self._watch)

    def _read(self) -> bool:
        """Whether there was an event."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, _READ_SIZE)
        except BlockingIOError:
            return False
        named: dict[tuple[tuple[bytes, bytes, bytes], int], int] = {}
        for mask, pid, info in _events(data):
            if mask & _FAN_Q_OVERFLOW:
                self._lost()
            elif info is not None:  # a file that one made, changed and moved is looked at once
                named[info, pid] = named.get((info, pid), 0) | mask
        folders: dict[tuple[bytes, bytes], tuple[int, str]] = {}
        try:
            for ((fsid, handle, name), pid), mask in named.items():
                did = [bool(mask & bit) for bit in (_FAN_MOVED_TO, _NAMED, _FAN_MODIFY)]
                if (fsid, handle) not in folders:
                    folder = self._open(fsid, handle)
                    folders[fsid, handle] = folder, _path(folder) if folder >= 0 else ""
                folder, path = folders[fsid, handle]
                if path:
                    self._touched(Touched(*_entry(folder, path, name), pid, *did))
                elif path := self._known.get((fsid[:_FSID_BYTES], handle), ""):
                    self._touched(Touched(os.path.join(path, os.fsdecode(name)), 0, pid, *did))  # noqa: PTH118
        finally:
            for folder, _ in folders.values():
                if folder >= 0:
                    os.close(folder)
        if named and all(mask == _FAN_MODIFY for mask in named.values()):
            self._wait()
        return True

    def _open(self, fsid: bytes, handle: bytes) -> int:
        """The folder of *handle*; negative: it is gone. The mount is not held: it may be unmounted."""
        try:
            mount = os.open(self._marked[fsid[:_FSID_BYTES]], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (KeyError, OSError):
            return -1
        try:
            found: int = _libc.open_by_handle_at(mount, handle, _O_PATH | os.O_CLOEXEC)
            if found < 0 and ctypes.get_errno() == errno.EPERM:
                self._lost()
            return found
        finally:
            os.close(mount)


def _fsid(path: str) -> bytes:
    return os.statvfs(path).f_fsid.to_bytes(8, "little")[:_FSID_BYTES]


def _path(folder: int) -> str:
    """Empty when it is longer than a path can be: folders may be made so, by relative paths."""
    try:
        return os.readlink(f"/proc/self/fd/{folder}")  # noqa: PTH115
    except OSError:
        return ""


def _entry(folder: int, path: str, name: bytes) -> tuple[str, int]:
    """The path and the mode of *name* in *folder*, which is at *path*."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except OSError:
        mode = 0
    # "." is the folder itself
    return (path if name == b"." else os.path.join(path, os.fsdecode(name))), mode  # noqa: PTH118


def _events(data: bytes) -> Iterator[tuple[int, int, tuple[bytes, bytes, bytes] | None]]:
    """Mask, pid, and the number of the file system, the folder's handle and the name in it."""
    offset = 0
    while offset + _EVENT.size <= len(data):
        length, _, _, head, mask, _, pid = _EVENT.unpack_from(data, offset)
        info = None
        if head + _INFO.size <= length:
            kind, _, size, fsid, handle_bytes, _ = _INFO.unpack_from(data, offset + head)
            if kind == _INFO_DFID_NAME:
                start = offset + head + 12  # after the header and fsid: struct file_handle
                end = start + 8 + handle_bytes
                name = data[end : offset + head + size].partition(b"\0")[0]
                info = (fsid, data[start:end], name)
        yield mask, pid, info
        offset += max(length, _EVENT.size)


def _reason(number: int) -> str:
    if number == errno.EPERM:
        return "not permitted (fanotify): CAP_SYS_ADMIN"
    if number in (errno.ENOSYS, errno.EINVAL):
        return "not by this kernel (fanotify with names, Linux 5.9)"
    return f"fanotify: {os.strerror(number)}"
