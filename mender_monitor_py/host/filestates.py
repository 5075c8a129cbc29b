"""The state of files, and what their content was when they last had it."""

# ruff: noqa: PTH113, PTH115, PTH116, PTH207 - pathlib takes several times as long, and a pass is thousands of these calls

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mender_monitor_py.baseline import Glob, unquote
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.scanner import Hashed
from mender_monitor_py.integritylist import Entry, Executable

MAX_FILES = 50_000  # that globs may mean: a check keeps 1 KiB of each


class State(NamedTuple):
    """
    What lstat and stat say of a path. *identity* stands for all of it: another content has another one.

    *error* is empty, ``missing``, or why nothing can be said.
    """

    executable: Executable
    identity: int = 0
    size: int = 0
    error: str = ""


class FileStates:
    """
    The SHA-256 of files, as long as their state is that of the reading.

    For each file there is one number and one text, the text shared with the list where it is the same.
    """

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, str]] = {}

    def look(self, path: str) -> State:
        """The state of *path* now; its content is not looked at, and ``*`` in the executable."""
        target = ""
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(path)
                status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return State(Executable(path, "", "", "", "", ""), error="missing")
        except OSError as error:
            # A loop of links leads to no file.
            reason = "missing" if error.strerror and "symbolic links" in error.strerror else error.strerror
            return State(Executable(path, "", "", "", "", ""), error=reason or "not known")
        device, owner = status.st_dev, (status.st_uid, status.st_gid)
        identity = _identity(
            target,
            status.st_ino,
            device,
            status.st_mode & 0o7777,
            *owner,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        found = _executable(path, "*", target, status.st_ino, device, status.st_mode & 0o7777, *owner)
        return State(found, identity, status.st_size)

    def known(self, path: str, state: State) -> Executable | None:
        """The file with the content that it had when its state was *state*; None: it was never read so."""
        identity, sha256 = self._read.get(path, (0, ""))
        return state.executable._replace(sha256=sha256) if sha256 and identity == state.identity else None

    def was_read(self, path: str) -> bool:
        """Whether the content of *path* was known once."""
        return path in self._read

    def is_now(self, found: Hashed) -> bool:
        """Whether the file at that path is still the one that was read."""
        return self.look(found.path).identity == _identity(found.target, *found[4:])

    def learn(self, found: Hashed, entries: Sequence[Entry]) -> Executable:
        """Keep what was read."""
        same = next((entry.sha256 for entry in entries if entry.sha256 == found.sha256), found.sha256)
        self._read[found.path] = (_identity(found.target, *found[4:]), same)
        return executable(found)

    def forget(self, path: str) -> None:
        """The content of *path* may be another, whatever its state."""
        if path in self._read:
            self._read[path] = (0, "")

    def keep(self, paths: Collection[str]) -> None:
        """Forget all but *paths*."""
        self._read = {path: read for path, read in self._read.items() if path in paths}

    def size(self, path: str) -> int:
        """The size of *path* in bytes; 0 when there is no such file."""
        try:
            return os.stat(path).st_size
        except OSError:
            return 0


def executable(found: Hashed) -> Executable:
    """What was read, as an entry has it."""
    numbers = (found.inode, found.device, found.mode, found.uid, found.gid)
    return _executable(found.path, found.sha256, found.target, *numbers)


def expand(globs: Iterable[Glob]) -> list[str]:
    """
    The files that *globs* mean, sorted: regular ones, and links to such. ``**`` follows no link to a folder.

    It may take long: not for the event loop. Raises UnknownError for more than MAX_FILES.
    """
    found: set[str] = set()
    for one in globs:
        for path in (one.literal,) if one.literal is not None else filter(one.matches, _candidates(one.text)):
            if os.path.isfile(path):
                found.add(path)
            if len(found) > MAX_FILES:
                raise UnknownError(f"{one.text} means more than {MAX_FILES:,} files")
    # /bin is /usr/bin on most systems: a file that is found by both names is taken once.
    real = {folder: os.path.realpath(folder) for folder in {path.rpartition("/")[0] for path in found}}
    return sorted(path for path in found if not _is_found_as(path, real, found))


def changed_since(paths: Iterable[str], since: float) -> list[str]:
    """Those of *paths* that are there and were changed since then (seconds since the epoch)."""
    found = []
    for path in paths:
        try:
            if max(os.stat(path).st_ctime, os.lstat(path).st_ctime) >= since:
                found.append(path)
        except OSError:
            continue
    return found


def _is_found_as(path: str, real: Mapping[str, str], found: Collection[str]) -> bool:
    """Whether *path* is in *found* by the real name of its folder, too."""
    folder, _, name = path.rpartition("/")
    return real[folder] != (folder or "/") and f"{real[folder].rstrip('/')}/{name}" in found


def _candidates(pattern: str) -> Iterator[str]:
    """At least the paths that *pattern* matches."""
    # Python's own "**" follows links to folders, round and round where these lead upwards.
    above, crosses, _ = pattern.partition("**")
    base = above.rpartition("/")[0] if crosses else pattern
    parts = (part if part == "-" else unquote(part) for part in base.split("/"))
    places = glob.iglob("/".join(parts) or "/", include_hidden=True)
    if not crosses:
        yield from places
        return
    for place in places:
        for folder, folders, files in os.walk(place):
            yield from (f"{folder.rstrip('/')}/{name}" for name in (*files, *folders))


def _identity(*facts: object) -> int:
    return hash(facts)


def _executable(
    path: str, sha256: str, target: str, inode: int, device: int, mode: int, uid: int, gid: int
) -> Executable:
    shown = f"{os.major(device)}:{os.minor(device)}"
    return Executable(path, sha256, str(inode), shown, f"{mode:04o}", f"{uid}:{gid}", target)
