"""
What the update client does to the device while it installs: its processes, the files it writes, its payload.

Nothing is read or watched at other times.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Collection
from contextlib import aclosing, suppress
from pathlib import Path

from mender_monitor_py.deployed import Image
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.child import ask
from mender_monitor_py.host.fileevents import FileEvents, Touched
from mender_monitor_py.host.images import is_at
from mender_monitor_py.host.mounts import read_mounts
from mender_monitor_py.host.processevents import Execution, Exit, ProcessEvents
from mender_monitor_py.host.procfs import Procfs

log = logging.getLogger(__name__)

CLIENTS = frozenset({"/usr/bin/mender", "/usr/bin/mender-update"})
FILES = "modules/v3/payloads/0000/tree/files"
_MOST_FILES = 64  # of a payload: each is held open
_SOON_S, _SOON, _LATER_S = 0.05, 200, 0.5  # from look to look for its files: ten seconds of the first kind
_LAST_READ_S = 4.0  # the service manager gives the whole end 10
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_PATHS = 50_000
_MOST_BYTES = 12 * 1024 * 1024  # of all of them: the service has 96 MiB
_MOST_BEFORE = 1_000  # before the device is changed: only what is written right before that is of interest
_DEPTH = 64  # of a process tree
_VIRTUAL = frozenset(
    (
        "autofs", "bpf", "cgroup", "cgroup2", "devpts", "mqueue", "proc", "pstore", "sysfs", "tracefs",
        "debugfs", "securityfs",
    )
)  # fmt: skip


class Installation:
    """
    The installation that runs, if any.

    *folder* is the update client's data folder. *followed*: the client is at work; *active*: and changes the
    device, or has just done so. *payload* has, by the SHA-256 of each file of the artifact,
    its names with the modes. *written* are the paths that the client's processes gave to a file, wrote to or
    removed, *modified* those at which they wrote; *others* those at which others did anything. What was done
    before *since* (CLOCK_BOOTTIME) is not among them. *folders* are those whose files are of interest to who
    has the key. *image* gives the root file system that came with it, once that runs.
    """

    def __init__(self, folder: Path, procfs: Procfs, processes: ProcessEvents) -> None:
        self._folder = folder
        self._procfs = procfs
        self._processes = processes
        self._events: FileEvents | None = None
        self._finding: asyncio.Task[None] | None = None
        self._files: dict[int, str] = {}
        self._read: dict[int, tuple[int, int]] = {}
        self._reading = asyncio.Lock()
        self._undo: Callable[[], None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._collecting = False
        self._bytes = 0  # of the paths below
        self.followed = False
        self.active = False
        self.payload: dict[str, dict[str, int]] = {}
        self.written: set[str] = set()
        self.modified: set[str] = set()
        self.others: set[str] = set()
        self.since = math.inf
        self.folders: dict[object, set[str]] = {}
        self.image: Callable[[], Image | None] = lambda: None

    def forget(self) -> None:
        """What comes is another installation than what was seen so far."""
        self.payload = {}
        self._forget_paths()

    def prepare(self) -> None:
        """
        The client will install, or does. Who its processes are, and what they write, is kept from now on.
        """
        if self.followed and self._starting is not None:
            return
        self.followed = True
        self._watch_files()
        self._starting = asyncio.get_running_loop().create_task(self._watch_processes())

    def begin(self) -> None:
        """An installation runs, perhaps since a while."""
        if self._collecting:
            return
        if self.followed:
            self._mark_files()  # what was mounted since
        self.prepare()
        self.active = self._collecting = True
        self._close_files()
        self._open_files()
        self._finding = asyncio.get_running_loop().create_task(self._find_files())

    async def collected(self) -> None:
        """It has ended. Returns when what it did is known."""
        await _ended(self._unwatch())
        await self._read_files()
        self._close_files()

    async def end(self) -> None:
        """What it leads to has been seen, too. The next one may begin before this returns."""
        tasks = self._unwatch()
        self.active = self.followed = False
        await _ended(tasks)
        await self._read_files()
        self._close_files()

    async def aclose(self) -> None:
        """The daemon ends. The artifact's files are read if that does not take long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_READ_S):
                await self.end()
        self._close_files()

    def explains(self, pid: int) -> bool:
        """Whether *pid* is the update client, or was started by it, directly or not, while it is at work."""
        return self.followed and (pid in self._processes.family or self._descends(pid))

    async def brings(self, file: str, pid: int, digest: Callable[[str, int], str]) -> bool:
        """
        Whether *pid* is the client's, or *file*, which it executes, is one of the artifact, content and name.

        What came with a new root file system is the artifact's, too: it may be gone with that.

        *digest* gives the SHA-256 of a file, or of what a process executes; it may block.
        """
        if self.explains(pid):
            return True
        name = file.rpartition("/")[2]
        if not (self.active and name):
            return False
        if (image := self.image()) is not None and _came_with(image, file):
            return True
        await self._read_files()
        if not any(name in names for names in self.payload.values()):
            return False
        runs_it = False
        with suppress(PermissionError):
            runs_it = self._procfs.executable(pid) == file
        return name in self.payload.get(await asyncio.to_thread(digest, file, pid if runs_it else 0), {})

    def _descends(self, pid: int) -> bool:
        for _ in range(_DEPTH):
            found = self._procfs.stat(pid) if pid > 1 else None
            if found is None:
                return False
            if self._is_client(pid):
                return True
            pid = found.parent
        return False

    def _is_client(self, pid: int) -> bool:
        """
        Whether *pid* runs the update client, and as we do: as root.

        Anybody may start it, with modules of his own, or have another file at its path in mounts of his own.
        """
        with suppress(OSError):
            path = self._procfs.executable(pid)
            if path in CLIENTS:
                runs = os.stat(f"{self._procfs.path}/{pid}/exe")  # noqa: PTH116
                return is_at(path, runs.st_dev, runs.st_ino) and self._procfs.user_id(pid) == os.geteuid()
        return False

    def _unwatch(self) -> list[asyncio.Task[None]]:
        """Watch no more, all of it at once: another one may begin soon. Gives what has yet to end."""
        self._collecting = False
        if self._events is not None:
            self._events.drain()
        if self._events is not None:
            self._events.close()
            self._events = None
        tasks = [task for task in (self._starting, self._finding) if task is not None]
        self._starting = self._finding = None
        for task in tasks:
            task.cancel()
        if self._undo is not None:
            self._undo()
            self._undo = None
        self._processes.follow(())
        return tasks

    # Its processes

    async def _watch_processes(self) -> None:
        self._undo = await self._processes.listen(_Clients(self._processes, self._procfs))
        self._processes.follow(pid for pid in self._procfs.pids() if self._descends(pid))

    # What it writes

    def _watch_files(self) -> None:
        try:
            self._events = FileEvents(self._seen, self._lost, all_of_it=True)
        except UnknownError as error:
            self._cannot_watch(str(error))
            return
        self.since = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._mark_files()

    def _mark_files(self) -> None:
        """Of all that is mounted now."""
        if self._events is None:
            return
        try:
            refused = self._events.mark(m for m in read_mounts() if m.kind not in _VIRTUAL)
            self._events.know(set().union(*self.folders.values()))
        except UnknownError as error:
            self._events.close()
            self._events = None
            self._cannot_watch(str(error))
            return
        if refused:
            more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
            named = ", ".join(refused[:5]) + more
            log.info(
                "who writes files while the update client installs is not seen on these mounts: %s", named
            )

    def _cannot_watch(self, reason: str) -> None:
        log.info("who writes files while the update client installs is not seen at all: %s", reason)

    def _seen(self, seen: Touched) -> None:
        if self._events is None:
            return  # of what was read together with the news that not all was seen
        if seen.path in self.others:
            return  # whoever it is: who writes all the time costs little
        ours = self.explains(seen.pid)
        if not ours:  # it may have started since, and ended
            self._processes.catch_up()
            ours = self.explains(seen.pid)
        if not self.active and len(self.written) + len(self.others) >= _MOST_BEFORE:
            self._forget_paths()
        if not ours:
            if not self._keep(seen.path, self.others):
                self._lost()
        elif seen.named or seen.modified:  # not who changes a mode, an owner or times alone
            self._keep(seen.path, self.written)
            if seen.modified and not seen.moved:
                self._keep(seen.path, self.modified)
            elif seen.named:
                self.modified.discard(seen.path)  # another file is there now, perhaps

    def _keep(self, path: str, paths: set[str]) -> bool:
        """Have *path* in *paths*, unless there are too many; whether it is."""
        size = sys.getsizeof(path)
        if path not in paths and len(paths) < _MOST_PATHS and self._bytes + size <= _MOST_BYTES:
            paths.add(path)
            self._bytes += size
        return path in paths

    def _forget_paths(self) -> None:
        for paths in (self.written, self.modified, self.others):
            paths.clear()
        self._bytes = 0
        self.since = time.clock_gettime(time.CLOCK_BOOTTIME)

    def _lost(self) -> None:
        """Somebody else may have written anything: nothing is taken for the client's."""
        self._forget_paths()
        if self.active and self._events is not None:
            log.warning("too many files are written while the update client installs: not all was seen")
            self._events.close()
            self._events = None

    # Its payload

    async def _find_files(self) -> None:
        """Open the artifact's files as they come; soon after the last of them the client removes all."""
        for pause in itertools.chain([_SOON_S] * _SOON, itertools.repeat(_LATER_S)):
            await asyncio.sleep(pause)
            self._open_files()

    def _open_files(self) -> None:
        """Hold open what is there now: it can be read then though it is removed."""
        known = {(status.st_dev, status.st_ino) for status in map(os.fstat, self._files)}
        with suppress(OSError):
            for entry in sorted(os.scandir(self._folder / FILES), key=lambda entry: entry.name):
                if len(self._files) >= _MOST_FILES:
                    break
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in known:
                        self._files[os.open(entry.path, _FLAGS)] = entry.name

    def _close_files(self) -> None:
        for descriptor in self._files:
            os.close(descriptor)
        self._files.clear()
        self._read.clear()

    async def _read_files(self) -> None:
        """Read the files that were not read as they are now."""
        async with self._reading:
            states = {
                number: (s.st_size, s.st_mtime_ns) for number in self._files for s in [os.fstat(number)]
            }
            unread = [number for number, state in states.items() if self._read.get(number) != state]
            if not unread:
                return
            request = {"files": [[f"/proc/{os.getpid()}/fd/{n}", self._files[n]] for n in unread]}
            payload = self.payload  # that of another installation, perhaps, when the answers are there
            try:
                async with aclosing(ask("payload", request)) as answers:
                    async for sha256, name, mode in answers:
                        payload.setdefault(sha256, {})[name] = mode
            except UnknownError as error:
                log.warning("the artifact's files cannot be read: %s", error)
                return
            self._read.update((number, states[number]) for number in unread if number in self._files)


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)


def _came_with(image: Image, file: str) -> bool:
    try:
        there, behind = os.lstat(file), os.stat(file)  # noqa: PTH116
    except OSError:
        return False
    return all(image.has(str(one.st_dev), one.st_ctime) for one in (there, behind))


class _Clients:
    """Follows the update clients that start from now on: after the reboot of an update we may be first."""

    def __init__(self, processes: ProcessEvents, procfs: Procfs) -> None:
        self._processes = processes
        self._procfs = procfs

    def executed(self, executions: list[Execution]) -> None:
        for pid, _, programs, _ in executions:
            opened = (one for program in programs for one in program if one.path in CLIENTS)
            if any(is_at(one.path, one.device, one.inode) for one in opened) and (
                self._procfs.user_id(pid) == os.geteuid()
            ):
                self._processes.family.add(pid)

    def exited(self, exits: list[Exit]) -> None: ...

    def events_lost(self) -> None: ...

    def mounts_changed(self) -> None: ...
