"""
The scan process: reads the file system for the watcher, which stays small and answers meanwhile.

Its standard input is one line of JSON, its standard output a line for each thing that it found, and a last
one with a summary. It ends when the other end of its input or output is closed. It runs at idle priority
unless it is told otherwise, and imports little: it is started for a single file, too.

    {"do": "setuid", "walks": ["/"], "stop": ["/proc"], "exclude": "", "bits": 3072, "caps": true}
        ["/usr/bin/su", 2541, 0, 0, "cap_setuid=ep", "sha256", 71912, 1] ... {"files": 1, ...}
    {"do": "hash", "files": ["/usr/bin/su"], "rate": 20971520}
        ["/usr/bin/su", "", "sha256", "link target", inode, device, mode, uid, gid, size, mtime, ctime] ... {}
"""

# ruff: noqa: PTH114, PTH115 - pathlib would double the cost of a scan

from __future__ import annotations

import json
import os
import re
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from mender_monitor_py import capabilities

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHUNK = 1024 * 1024
_LONG_PATH = 4000  # PATH_MAX is 4096
_HASHED_MOST = 1024**3  # bytes of a set-uid executable: nobody waits for one that is made to take for ever
_FOUND_MOST = 10_000
_PROBLEMS_MOST = 10
_BEING_WRITTEN_S, _BEING_WRITTEN_TIMES = 0.1, 3
_TOLD_EACH = 5000  # files, from one word on the progress to the next


class SetuidScan:
    """Looks for set-uid executables and those with capabilities."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._walks: list[str] = request["walks"]
        self._stop = frozenset(request["stop"])
        self._exclude = re.compile(request["exclude"], re.DOTALL) if request["exclude"] else None
        self._bits: int = request["bits"]
        self._caps: bool = request["caps"]
        self._buffer = bytearray(_CHUNK)
        self._files = self._folders = self._found = self._unread = 0
        self._problems: list[str] = []

    def run(self) -> None:
        for path in self._walks:
            try:
                status = os.lstat(path)
            except OSError as error:
                self._problem(path, error)
                continue
            if stat.S_ISDIR(status.st_mode):
                self._walk(path)
            elif stat.S_ISREG(status.st_mode):
                folder, _, name = path.rpartition("/")
                self._look_into(folder or "/", name)
        summary = ("files", "folders", "found", "unread", "problems")
        _tell({name: getattr(self, f"_{name}") for name in summary})

    def _walk(self, top: str) -> None:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                descriptor = _open_folder(folder)
            except OSError as error:
                self._problem(folder, error)
                continue
            try:
                waiting += self._folder(descriptor, folder)
            except OSError as error:
                self._problem(folder, error)
            finally:
                os.close(descriptor)

    def _folder(self, descriptor: int, folder: str) -> list[str]:
        """Look at the files of a folder; gives the folders in it."""
        below: list[str] = []
        files, bits = 0, self._bits
        wanted = bits | 0o111 if self._caps else bits
        prefix = folder if folder.endswith("/") else f"{folder}/"
        with os.scandir(descriptor) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    files += 1
                    try:
                        mode = entry.stat(follow_symlinks=False).st_mode
                    except FileNotFoundError:
                        continue
                    if mode & wanted:
                        self._file(descriptor, prefix, entry.name, mode)
                elif entry.is_dir(follow_symlinks=False):
                    path = prefix + entry.name
                    if path not in self._stop and not (self._exclude and self._exclude.fullmatch(path)):
                        below.append(path)
        self._folders += 1
        if self._files // _TOLD_EACH != (self._files + files) // _TOLD_EACH:
            _tell({"files": self._files + files})  # fails when nobody listens any more
        self._files += files
        return below

    def _look_into(self, folder: str, name: str) -> None:
        """Look at one file."""
        try:
            descriptor = _open_folder(folder)
        except OSError as error:
            return self._problem(folder, error)
        try:
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            self._files += 1
            if stat.S_ISREG(mode):
                self._file(descriptor, folder if folder == "/" else f"{folder}/", name, mode)
        except FileNotFoundError:
            pass
        finally:
            os.close(descriptor)

    def _file(self, folder: int, prefix: str, name: str, mode: int) -> None:
        # Capabilities mean nothing to a file that nobody may execute.
        found = self._capabilities(folder, name) if self._caps and mode & 0o111 else ""
        path = prefix + name
        if not (mode & self._bits or found) or (self._exclude and self._exclude.fullmatch(path)):
            return
        self._found += 1
        if self._found > _FOUND_MOST:
            return
        status, digest = self._read(folder, name)
        if status is None:
            return
        owner = (status.st_uid, status.st_gid)
        mode = stat.S_IMODE(status.st_mode)
        _tell([path, mode, *owner, found, digest, status.st_size, status.st_nlink])

    def _capabilities(self, folder: int, name: str) -> str:
        try:
            data = os.getxattr(f"/proc/self/fd/{folder}/{name}", "security.capability", follow_symlinks=False)
        except OSError:  # ENODATA, as a rule
            return ""
        return capabilities.text(data)

    def _read(self, folder: int, name: str) -> tuple[os.stat_result | None, str]:
        """The file's state and its SHA-256; None: it is gone."""
        try:
            descriptor = os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=folder)
        except OSError:
            with suppress(FileNotFoundError):
                return os.stat(name, dir_fd=folder, follow_symlinks=False), ""
            return None, ""
        try:
            status = os.fstat(descriptor)
            if status.st_size > _HASHED_MOST:
                return status, ""
            return status, _digest(descriptor, self._buffer, 0)
        except OSError:
            return status, ""
        finally:
            os.close(descriptor)

    def _problem(self, path: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return  # it vanished meanwhile, or is another thing now, which the next scan sees
        self._unread += 1
        if len(self._problems) < _PROBLEMS_MOST:
            self._problems.append(f"{path}: {error.strerror}")


def hash_files(request: dict[str, Any]) -> None:
    """Tell the SHA-256 of each file, with the state that it had then."""
    rate: int = request["rate"]
    buffer = bytearray(_CHUNK)
    for path in request["files"]:
        _tell([path, *_hashed(path, buffer, rate)])
    _tell({})


def _hashed(path: str, buffer: bytearray, rate: int) -> tuple[Any, ...]:
    """
    Error, SHA-256, link target, inode, device, mode, user, group, size, mtime, ctime; times in nanoseconds.

    The error is empty, ``missing``, ``kind: …`` for what is no file, or why it cannot be read. A file that is
    written to all the time has the state of its last reading: others wait behind it.
    """
    try:
        target = os.readlink(path) if os.path.islink(path) else ""
        descriptor = os.open(path, _FILE)
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
            digest = _digest(descriptor, buffer, rate)
            after = _identity(os.fstat(descriptor))
            if before == after or attempts == _BEING_WRITTEN_TIMES:
                return ("", digest, target, *after[:2], stat.S_IMODE(after[2]), *after[3:])
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


def _digest(descriptor: int, buffer: bytearray, rate: int) -> str:
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


def _open_folder(path: str) -> int:
    """The folder *path*, however long that is."""
    if len(path) < _LONG_PATH // 4:  # characters, of 4 bytes at most
        return _opened(path, None)
    parts = [*_parts(path)]
    descriptor = _opened(parts[0], None)
    for part in parts[1:]:
        try:
            below = _opened(part, descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _opened(path: str, folder: int | None) -> int:
    try:
        return os.open(path, _FOLDER, dir_fd=folder)
    except PermissionError:  # O_NOATIME is for the owner and for root
        return os.open(path, _FOLDER & ~os.O_NOATIME, dir_fd=folder)


def _parts(path: str) -> Iterator[str]:
    """*path* in pieces that the kernel takes, each relative to the one before."""
    while len(path) > _LONG_PATH // 4:
        end = path.rfind("/", 0, _LONG_PATH // 4)
        yield path[:end] or "/"
        path = path[end + 1 :]
    yield path


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _tell(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _at_idle_priority() -> None:
    """
    Run when nothing else wants to, and read when nothing else does.

    sched(7): SCHED_IDLE; a process of that policy has the idle class of I/O, too (ioprio_set(2)).
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        with suppress(OSError):
            os.nice(19)


def main() -> int:
    """The program: one request."""
    request = json.loads(sys.stdin.readline())
    if request.get("idle", True):
        _at_idle_priority()
    try:
        if request["do"] == "setuid":
            SetuidScan(request).run()
        else:
            hash_files(request)
    except BrokenPipeError:
        # Nobody reads: what is left in the buffer must not be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
