"""Timers of the kernel that asyncio's own clock cannot replace; see timerfd_create(2)."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_FAR_AWAY = 2**31 - 1 if ctypes.sizeof(ctypes.c_long) == 4 else 2**33

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class _Timer(ABC):
    """A timerfd that is read in the running event loop."""

    def __init__(self, clock: int) -> None:
        self._fd = _libc.timerfd_create(clock, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_create: {os.strerror(number)}")
        asyncio.get_running_loop().add_reader(self._fd, self._ready)

    def _set(self, flags: int, at: float) -> None:
        seconds = int(at)
        value = _Itimerspec(_Timespec(0, 0), _Timespec(seconds, int((at - seconds) * 1e9)))
        if _libc.timerfd_settime(self._fd, flags, ctypes.byref(value), None) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_settime: {os.strerror(number)}")

    @abstractmethod
    def _ready(self) -> None:
        """The descriptor can be read."""

    def close(self) -> None:
        """Never fire again."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Alarm(_Timer):
    """Calls *callback* at a moment on CLOCK_BOOTTIME, which goes on while the machine sleeps."""

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__(time.CLOCK_BOOTTIME)
        self._callback = callback
        self._at: float | None = None

    def set(self, at: float | None) -> None:
        """Fire at *at* seconds; at once when that is past; None: not at all."""
        if at == self._at:
            return
        self._at = at
        # All zero would disarm the timer.
        self._set(_TFD_TIMER_ABSTIME, 0.0 if at is None else max(at, 1e-9))

    def _ready(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._at = None
        self._callback()


class ClockStep(_Timer):
    """Calls *callback* whenever the wall clock is set, by the kernel's word: nothing is polled."""

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__(time.CLOCK_REALTIME)
        self._callback = callback
        self._arm()

    def _arm(self) -> None:
        self._set(_TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET, _FAR_AWAY)

    def _ready(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
            self._arm()
            self._callback()
