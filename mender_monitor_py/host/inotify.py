"""
The kernel's file events: one inotify descriptor for the whole process, on libc through ctypes.

inotify(7): "The inotify API provides a mechanism for monitoring filesystem events." What it does not see:
"Inotify reports only events that a user-space program triggers through the filesystem API. As a result, it
does not catch remote events that occur on network filesystems."
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# <sys/inotify.h>
IN_ACCESS = 0x1
IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_CLOSE_NOWRITE = 0x10
IN_OPEN = 0x20
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_DONT_FOLLOW = 0x2000000
IN_EXCL_UNLINK = 0x4000000
IN_MASK_ADD = 0x20000000
IN_ISDIR = 0x40000000

_ALWAYS = IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED
_HEADER = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, len; the name follows
_READ_SIZE = 65_536
_READS, _WINDOW_S, _REST_S = 20, 0.05, 0.02
_LIMITS = {
    errno.EMFILE: "no inotify instance left: raise the sysctl fs.inotify.max_user_instances",
    errno.ENFILE: "no file descriptor left: raise the sysctl fs.file-max",
    errno.ENOSPC: "no inotify watch left: raise the sysctl fs.inotify.max_user_watches",
}


class Event(NamedTuple):
    """
    What happened to a watched file, or to the entry *name* of a watched folder.

    *cookie* is the same in the two halves of a rename; *name* is empty for the watched path itself.
    """

    mask: int
    name: str
    cookie: int


class Watch:
    """One callback on one path."""

    def __init__(self, owner: Inotify, wd: int, mask: int, callback: Callable[[Event], None]) -> None:
        self._owner = owner
        self._wd = wd
        self._mask = mask | _ALWAYS
        self._callback = callback
        self._active = True

    @property
    def active(self) -> bool:
        """False once cancelled, or once the kernel dropped the watch (IN_IGNORED was delivered)."""
        return self._active

    def cancel(self) -> None:
        """The callback is not called again, not even for events that were read already."""
        if self._active:
            self._active = False
            self._owner._cancelled(self._wd, self)

    def _deliver(self, event: Event) -> None:
        if not self._active or not event.mask & self._mask:
            return
        if event.mask & IN_IGNORED:
            self._active = False
        self._callback(event)


class Inotify:
    """
    Watches files and folders; events arrive in the asyncio loop that the first watch was made in.

    Watches are on inodes: a file that is renamed stays watched, a new file under the old name is not.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watches: dict[int, list[Watch]] = {}
        self._window_ends = 0.0
        self._reads = 0
        self._resting: asyncio.TimerHandle | None = None

    def watch(self, path: Path, mask: int, callback: Callable[[Event], None]) -> Watch:
        """
        Call *callback* for the events of *mask* on *path*.

        Several watches may be on one path, each with its mask. Whatever the mask, each is told IN_IGNORED
        (the watch is gone: deleted or unmounted), IN_UNMOUNT and IN_Q_OVERFLOW (events were lost: look at
        everything). Raises OSError; a limit of the kernel is named with its sysctl.
        """
        if self._fd < 0:
            self._open()
        # "If the filesystem object was already being watched (perhaps via a different link to the same
        # object), then the descriptor for the existing watch is returned": so the masks are united.
        wd = _LIBC.inotify_add_watch(self._fd, os.fsencode(path), mask | IN_MASK_ADD)
        if wd < 0:
            raise _error(str(path))
        watch = Watch(self, wd, mask, callback)
        self._watches.setdefault(wd, []).append(watch)
        return watch

    def close(self) -> None:
        """End every watch; nothing is delivered any more."""
        for watches in self._watches.values():
            for watch in watches:
                watch._active = False
        self._watches.clear()
        if self._resting is not None:
            self._resting.cancel()
        if self._fd >= 0 and self._loop is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
        self._fd, self._loop = -1, None

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._fd = _LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error(None)
        self._loop = loop
        loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        self._rest_in_a_flood()
        try:
            data = os.read(self._fd, _READ_SIZE)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            wd, mask, cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            # "the name is null-terminated, and may include further null bytes to align"
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            self._dispatch(wd, Event(mask, name, cookie))

    def _rest_in_a_flood(self) -> None:
        """Single events are read at once; when they come without a pause, many are taken together."""
        assert self._loop is not None
        now = self._loop.time()
        if now >= self._window_ends:
            self._window_ends, self._reads = now + _WINDOW_S, 0
        self._reads += 1
        if self._reads > _READS:
            self._loop.remove_reader(self._fd)
            self._resting = self._loop.call_later(_REST_S, self._loop.add_reader, self._fd, self._read)

    def _dispatch(self, wd: int, event: Event) -> None:
        assert self._loop is not None
        if event.mask & IN_Q_OVERFLOW:  # its wd is -1
            told = [watch for watches in self._watches.values() for watch in watches]
        elif event.mask & IN_IGNORED:
            told = self._watches.pop(wd, [])
        else:
            told = self._watches.get(wd, [])
        for watch in told:
            # a handle of its own: a callback that raises does not keep the others from their events
            self._loop.call_soon(watch._deliver, event)

    def _cancelled(self, wd: int, watch: Watch) -> None:
        watches = self._watches.get(wd)
        if watches is None:
            return
        watches.remove(watch)
        if not watches:
            # Numbers are not used again before they have wrapped at INT_MAX (inotify(7), BUGS), so what is
            # still queued for this one reaches nobody. EINVAL: the file went, and IN_IGNORED is on its way.
            del self._watches[wd]
            _LIBC.inotify_rm_watch(self._fd, wd)


def _error(path: str | None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, _LIMITS.get(number) or os.strerror(number), path)


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.inotify_init1.argtypes = (ctypes.c_int,)
_LIBC.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_LIBC.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)
