"""
The scan for set-uid executables and those with capabilities, in the scan process; see scan.py.

It takes little more CPU than find, most of it the kernel's: a folder tells the types of its entries, so that
only files are asked for their state, by their names alone from inside their folder, and many in a row.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from mender_monitor_py.filehash import CHUNK, digest, tell
from mender_monitor_py.host.regularfile import FLAGS

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_AT_ONCE = 256  # entries of a folder that are held at once, however many it has
_LONG_PATH = 4000  # PATH_MAX is 4096
_HASHED_MOST = 1024**3  # bytes of a set-uid executable: nobody waits for one that is made to take for ever
_FOUND_MOST = 10_000
_PROBLEMS_MOST = 10
_TOLD_EACH = 5000  # files, from one word on the progress to the next


class SetuidScan:
    """Looks for set-uid executables and those with capabilities."""

    def __init__(self, walks: list[str], stop: list[str], exclude: str, bits: int, *, caps: bool) -> None:
        self._walks = walks
        self._stop = frozenset(stop)
        self._exclude = re.compile(exclude, re.DOTALL) if exclude else None
        self._bits = bits
        self._caps = caps
        self._buffer = bytearray(CHUNK)
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
        tell({name: getattr(self, f"_{name}") for name in summary})

    def _walk(self, top: str) -> None:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                descriptor = _enter(folder)
            except OSError as error:
                self._problem(folder, error)
                continue
            try:
                waiting += self._folder(descriptor, folder)
            except BrokenPipeError:
                raise
            except OSError as error:
                self._problem(folder, error)
            finally:
                os.close(descriptor)

    def _folder(self, descriptor: int, folder: str) -> list[str]:
        """Look at the files of *folder*, which is the current one; gives the folders in it."""
        below: list[str] = []
        files, bits, lstat = 0, self._bits, os.lstat
        wanted = bits | 0o111 if self._caps else bits
        prefix = folder if folder.endswith("/") else f"{folder}/"
        with os.scandir(descriptor) as entries:
            more = True
            while more:
                names: list[str] = []
                others = 0
                for entry in islice(entries, _AT_ONCE):
                    if entry.is_file(follow_symlinks=False):
                        names.append(entry.name)
                        continue
                    others += 1
                    if entry.is_dir(follow_symlinks=False):
                        path = prefix + entry.name
                        if path not in self._stop and not self._excludes(path):
                            below.append(path)
                for name in names:
                    try:
                        mode = lstat(name).st_mode
                    except FileNotFoundError:
                        continue
                    if mode & wanted:
                        self._file(prefix, name, mode)
                files += len(names)
                more = len(names) + others == _AT_ONCE
        self._folders += 1
        if self._files // _TOLD_EACH != (self._files + files) // _TOLD_EACH:
            tell({"files": self._files + files})  # fails when nobody listens any more
        self._files += files
        return below

    def _look_into(self, folder: str, name: str) -> None:
        """Look at one file."""
        try:
            descriptor = _enter(folder)
        except OSError as error:
            return self._problem(folder, error)
        try:
            mode = os.lstat(name).st_mode
            self._files += 1
            if stat.S_ISREG(mode):
                self._file(folder if folder == "/" else f"{folder}/", name, mode)
        except FileNotFoundError:
            pass
        finally:
            os.close(descriptor)

    def _file(self, prefix: str, name: str, mode: int) -> None:
        """Look at the file *name* of the current folder."""
        # Capabilities mean nothing to a file that nobody may execute.
        found = _capabilities(name) if self._caps and mode & 0o111 else ""
        path = prefix + name
        if not (mode & self._bits or found) or self._excludes(path):
            return
        self._found += 1
        if self._found > _FOUND_MOST:
            return
        status, sha256 = self._read(name)
        if status is None:
            return
        owner = (status.st_uid, status.st_gid)
        mode = stat.S_IMODE(status.st_mode)
        tell([path, mode, *owner, found, sha256, status.st_size, status.st_nlink])

    def _excludes(self, path: str) -> bool:
        return self._exclude is not None and self._exclude.fullmatch(path) is not None

    def _read(self, name: str) -> tuple[os.stat_result | None, str]:
        """The file's state and its SHA-256; None: it is gone."""
        try:
            descriptor = os.open(name, FLAGS | os.O_NOFOLLOW)
        except OSError:
            with suppress(FileNotFoundError):
                return os.lstat(name), ""
            return None, ""
        try:
            status = os.fstat(descriptor)
            if status.st_size > _HASHED_MOST:
                return status, ""
            return status, digest(descriptor, self._buffer, 0)
        except BrokenPipeError:
            raise
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


def _capabilities(name: str) -> str:
    try:
        data = os.getxattr(name, "security.capability", follow_symlinks=False)
    except OSError:  # ENODATA, as a rule
        return ""
    from mender_monitor_py import capabilities  # most files have none

    return capabilities.text(data)


def _enter(path: str) -> int:
    """Make the folder *path* the current one; gives its descriptor."""
    descriptor = _open_folder(path)
    try:
        os.fchdir(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


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
