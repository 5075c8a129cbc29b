"""SHA-256 of files, in the scan process; see scan.py."""

# ruff: noqa: PTH114, PTH115 - pathlib would double the cost of a file

from __future__ import annotations

import json
import os
import select
import stat
import sys

from mender_monitor_py.host.regularfile import open_harmless

CHUNK = 1024 * 1024
_BEING_WRITTEN_S, _BEING_WRITTEN_TIMES = 0.1, 3


def hash_files(files: list[str], rate: int) -> None:
    """Tell the SHA-256 of each file, with the state that it had then; *rate* as in :func:`digest`."""
    buffer = bytearray(CHUNK)
    for path in files:
        tell([path, *_hashed(path, buffer, rate)])
    tell({})


def _hashed(path: str, buffer: bytearray, rate: int) -> tuple[object, ...]:
    """
    Error, SHA-256, link target, inode, device, mode, user, group, size, mtime, ctime; times in nanoseconds.

    The error is empty, ``missing``, ``kind: …`` for what is no file, or why it cannot be read. A file that is
    written to all the time has the state of its last reading: others wait behind it.
    """
    try:
        target = os.readlink(path) if os.path.islink(path) else ""
        descriptor = open_harmless(path)
    except (FileNotFoundError, NotADirectoryError):
        return ("missing",)
    except OSError as error:
        return ("missing" if error.strerror and "loop" in error.strerror else f"{error.strerror}",)
    try:
        attempts = 0
        while True:
            attempts += 1
            before = _identity(os.fstat(descriptor))
            if not stat.S_ISREG(before[2]):
                return (f"kind: {_kind(before[2])}",)
            sha256 = digest(descriptor, buffer, rate)
            after = _identity(os.fstat(descriptor))
            if before == after or attempts == _BEING_WRITTEN_TIMES:
                return ("", sha256, target, *after[:2], stat.S_IMODE(after[2]), *after[3:])
            os.lseek(descriptor, 0, os.SEEK_SET)
            _pause(_BEING_WRITTEN_S)
    except BrokenPipeError:
        raise
    except OSError as error:
        return (f"{error.strerror}",)
    finally:
        os.close(descriptor)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_ino,
        status.st_dev,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def digest(descriptor: int, buffer: bytearray, rate: int) -> str:
    """The SHA-256 of what is left to read; *rate* is in bytes a second, 0: as fast as it goes."""
    import hashlib  # a third of the start-up, and not each scan finds something

    found = hashlib.sha256()
    view = memoryview(buffer)[: min(len(buffer), rate)] if rate else memoryview(buffer)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while count := file.readinto(view):
            found.update(view[:count])
            _pause(count / rate if rate else 0.0)
    return found.hexdigest()


def _pause(seconds: float) -> None:
    """Raises BrokenPipeError when the watcher has closed its end of our input."""
    poll = select.poll()
    poll.register(0, 0)  # POLLHUP and POLLERR come unasked
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def tell(message: object) -> None:
    """One line of the answer. Raises BrokenPipeError when nobody listens any more."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
