"""Mounts of a test's own: what it mounts is seen by nobody else, and gone when it ends."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_PR_CAPBSET_DROP, _CAPABILITY_VERSION_3 = 24, 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN = 1, 2, 21
_libc = ctypes.CDLL(None, use_errno=True)


def in_own_mounts(scenario: Callable[[], object], without: Iterable[int] = ()) -> None:
    """
    Run *scenario* in a process with a mount namespace of its own, *without* these capabilities. Needs root.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            _call(_libc.unshare(_CLONE_NEWNS))
            _call(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
            _drop(set(without))
            scenario()
        except BaseException:  # noqa: BLE001 - told by the test
            text = traceback.format_exc()
        finally:
            os.write(writing, text.encode()[:60_000])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        failure = pipe.read()
    os.waitpid(child, 0)
    assert not failure, failure


def mount(kind: str, path: Path, options: str = "", source: str = "none", flags: int = 0) -> None:
    """mount(2)."""
    _call(_libc.mount(source.encode(), os.fsencode(path), kind.encode(), flags, options.encode() or None))


def bind(source: Path, path: Path) -> None:
    """Show *source* at *path* too."""
    _call(_libc.mount(os.fsencode(source), os.fsencode(path), None, 0x1000, None))


def unmount(path: Path) -> None:
    _call(_libc.umount2(os.fsencode(path), 2))


def _drop(capabilities: set[int]) -> None:
    """Give *capabilities* up, for this process and those that it starts; see capabilities(7)."""
    for number in capabilities:
        _call(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _call(_libc.capget(header, sets))
    for number in capabilities:
        for kind in range(3):
            sets[number // 32 * 3 + kind] &= ~(1 << number % 32)
    _call(_libc.capset(header, sets))


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
