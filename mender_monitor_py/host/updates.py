"""
The deployment that the update client installs now: its store, its module's work tree, its logs, by inotify.

Each of these may come later, and the way to it may lead over a link whose target is not there yet.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mender_monitor_py import menderconf, updatestate
from mender_monitor_py.deploymentlog import NAME, DeploymentLog
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import menderstore
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.deploymentlogs import LogFile, listing
from mender_monitor_py.host.deploymentlogs import read as read_log
from mender_monitor_py.host.inotify import Inotify
from mender_monitor_py.host.pathwatch import PathWatch
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.regularfile import open_regular
from mender_monitor_py.model import Stamp
from mender_monitor_py.paths import Paths
from mender_monitor_py.updateprogress import Change, Outcome, Seen, Tree, Update, advance, ended, same
from mender_monitor_py.updatestate import MAX_NAME, Stored

log = logging.getLogger(__name__)

GATHER_S = 0.02
LOG_S = 0.1  # a module that talks writes many lines
# The newer client removes its state just before it ends the log.
LAST_LINE_S = 5.0
# By hand, the work tree goes first, and then the artifact's name is written.
RENAMED_S = 2.0
RETRY_S = 60.0
# Nothing tells of a data partition that is mounted; the unit is started after it, as a rule.
ABSENT_S = 600.0
_PROGRAMS = ("mender", "mender-update")
_BY_HAND = ("install", "resume", "commit", "rollback")
_TREE = "modules/v3/payloads/0000/tree"
_MAX_CONF = 256 * 1024
_NOT_YET = "nobody has looked yet"

Listener = Callable[[Change], None]


class Updates:
    """
    Tells its listeners of each deployment: that it began, each phase, and how it ended.

    *unknown*: why it is not known what runs; empty: it is. *absent*: no client has ever run here. *written*:
    when the client wrote last, on CLOCK_BOOTTIME; where inotify does not tell, when it was last looked at.
    What makes the store unreadable, or readable again, does not count.
    """

    def __init__(self, paths: Paths, inotify: Inotify, procfs: Procfs, clock: Clock) -> None:
        self._paths = paths
        self._installer = _Installer(procfs)
        self._clock = clock
        self._watch = PathWatch(inotify, self._changed, self._elsewhere)
        self._listeners: dict[object, tuple[Listener, Callable[[], None]]] = {}
        self._seen: Seen | None = None
        self._ending: tuple[Seen, asyncio.TimerHandle] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._stored = Stored()
        self._log_folders = [paths.mender]
        self._ours: set[str] = set()
        self.unknown = _NOT_YET
        self.absent = False
        self.written = 0.0
        self._store_time = 0

    @property
    def current(self) -> Update | None:
        """The deployment that runs; None when none does, or when it is not known."""
        return self._seen.update if self._seen is not None else None

    @property
    def settled(self) -> bool:
        """
        Whether no deployment runs, as far as it is known, and the end of the last one was told.

        As long as the client has written something that was not looked at, that is not known.
        """
        return self._seen is None and self._ending is None and self._timer is None

    @property
    def artifact(self) -> str:
        """The name of the installed artifact, as the store has it; empty when it is not known."""
        return self._stored.artifact

    @property
    def left(self) -> str:
        """
        The artifact whose module's work tree was left behind, with nobody at work on it; empty: none.

        The client takes it away whatever happens, unless it is killed or has refused the header.
        """
        tree = _tree(self._paths.mender / _TREE) if self._seen is None else None
        return tree.artifact if tree is not None and not self._installer.runs() else ""

    def listen(self, callback: Listener, stirred: Callable[[], None] = lambda: None) -> Callable[[], None]:
        """
        Call *callback* at each change from now on, and *stirred* at each look: when the client has written
        something, and now and then.

        Neither is called from in here; :attr:`current` is right when this returns. The result undoes it.
        """
        key = object()
        first = not self._listeners
        self._listeners[key] = callback, stirred
        if first:
            self._place()
            self._look(tell=False)

        def undo() -> None:
            if self._listeners.pop(key, None) is not None and not self._listeners:
                self.close()

        return undo

    def close(self) -> None:
        self._watch.close()
        for timer in (self._timer, self._retry, self._ending and self._ending[1]):
            if timer is not None:
                timer.cancel()
        self._timer = self._retry = self._ending = None
        self._seen, self._stored = None, Stored()
        self.unknown = _NOT_YET

    def logs(self) -> list[LogFile]:
        """The logs of deployments, the newest first, one for each. Raises UnknownError."""
        folders = [listing(folder) for folder in self._log_folders]
        found: dict[str, LogFile] = {}
        for file in heapq.merge(*folders, key=lambda file: -file.changed):
            found.setdefault(file.deployment, file)
        return list(found.values())

    @property
    def trace(self) -> str:
        """What is another text whenever the client has written something; empty: it is not known."""
        with suppress(UnknownError):
            logs = [f"{file.changed} {file.size}" for file in self.logs()]
            return " ".join((str(self._time_of_store()), *logs[:1]))
        return ""

    # What the kernel tells

    def _place(self) -> None:
        """Watch what there is, and the way to what there is not yet."""
        self._log_folders = [self._paths.mender, *_log_path(self._paths)]
        store, tree = self._paths.mender / menderstore.NAME, self._paths.mender / _TREE
        logs = [folder / "log" for folder in self._log_folders]
        conf = [self._paths.mender_conf, self._paths.mender_fallback_conf]
        header = tree / "header/artifact_name"
        self._watch.watch(map(str, (store, tree / "version", header, *logs, *conf)))
        # Events come of all folders on the way, too: others write there.
        self._ours = {
            os.path.realpath(path.parent) for path in (store, tree / "version", header, *logs, *conf)
        }

    def _changed(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        if folder not in self._ours:
            return
        if name == menderstore.NAME:
            self._look()
            return
        self.written = self._clock.boottime()
        if name == "mender.conf":
            self._elsewhere()
        elif _TREE in folder:
            self._soon()
        elif NAME.fullmatch(name):
            self._soon(LOG_S)

    def _elsewhere(self) -> None:
        self._place()
        self._soon()

    def _soon(self, wait: float = GATHER_S) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._now)

    def _now(self) -> None:
        self._timer = None
        self._look()

    # Looking

    def _look(self, *, tell: bool = True) -> None:
        known = not self.unknown
        try:
            stored = self._read()
            self._known()
            tree = self._tree(stored)
            if tree is None and stored.standalone is None:
                stored = self._read()  # who installs by hand ends with a word there: it may have come since
        except (UnknownError, ValueError) as error:
            self.absent = isinstance(error, menderstore.AbsentError)
            self._cannot(str(error))
        else:
            self._note_written(known=known)
            self._stored = stored
            self._judge(advance(self._seen, stored, tree, self._clock.now()), tell)
        if self._watch.problem:
            self.written = self._clock.boottime()
            self._look_again()
        if tell:
            for _, stirred in list(self._listeners.values()):
                stirred()

    def _note_written(self, *, known: bool) -> None:
        """The store may have been written; *known*: it could be read before, too."""
        before, self._store_time = self._store_time, self._time_of_store()
        if known and before != self._store_time:
            self.written = self._clock.boottime()

    def _time_of_store(self) -> int:
        """When it was written last, in nanoseconds; 0: that is not known."""
        try:
            return (self._paths.mender / menderstore.NAME).stat().st_mtime_ns
        except OSError:
            return 0

    def _known(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self.unknown, self.absent = "", False

    def _read(self) -> Stored:
        """What the store has. Raises UnknownError, ValueError."""
        return updatestate.parse(menderstore.read(self._paths.mender / menderstore.NAME))

    def _tree(self, stored: Stored) -> Tree | None:
        """
        The work tree of a module that installs.

        The client leaves one behind when it refuses an artifact for its header, or is killed. Without a word
        in the store, it counts only while a client that somebody started works on it.
        """
        tree = _tree(self._paths.mender / _TREE)
        if tree is None or stored.managed is not None or stored.standalone is not None:
            return tree
        if not self._installer.runs():
            return None
        self._look_again()
        return tree

    def _look_again(self) -> None:
        """In a while, in case no event comes."""
        if self._retry is None:
            wait = ABSENT_S if self.absent else RETRY_S
            self._retry = asyncio.get_running_loop().call_later(wait, self._try_again)

    def _cannot(self, reason: str) -> None:
        """What runs is not known any more. Without an event it is tried again in a while."""
        if reason != self.unknown:
            log.debug("%s", reason)
        self.unknown = reason
        if self._seen is not None:
            seen, self._seen = self._seen, None
            self._tell(Change(seen.update, Outcome.UNKNOWN))
        self._look_again()

    def _try_again(self) -> None:
        self._retry = None
        self._place()
        self._look()

    def _judge(self, now: Seen | None, tell: bool) -> None:
        before, self._seen = self._seen, now
        begins = now is not None and (before is None or not same(before.update, now.update))
        if before is not None and (now is None or begins):
            self._ends(before)
        else:
            self._end_pending(final=begins)
        if now is None:
            return
        if begins and not tell:
            update = replace(now.update, since=self._began(now.update))
            self._seen = replace(now, update=update)
        elif before is None or before.update != now.update:
            self._tell(Change(now.update, failed_in=now.failed_in))

    def _ends(self, seen: Seen) -> None:
        """It is gone. Its log may get its last line in a moment, and by hand the artifact its new name."""
        self._end_pending()
        patience = LAST_LINE_S if seen.update.id else RENAMED_S
        timer = asyncio.get_running_loop().call_later(patience, self._end_pending)
        self._ending = seen, timer
        self._end_pending(final=False)

    def _end_pending(self, *, final: bool = True) -> None:
        """Tell how the last one ended, once that is known; *final*: as well as it is known."""
        if self._ending is None:
            return
        seen, timer = self._ending
        found = self._log_of(seen.update.id)
        if not final:
            open_log = found is not None and found.success is None and not found.quiet
            if open_log or (not seen.update.id and self._stored.artifact == seen.before):
                return
        timer.cancel()
        self._ending = None
        self._tell(ended(seen, self._stored, found))

    def _tell(self, change: Change) -> None:
        for callback, _ in list(self._listeners.values()):
            # a handle of its own: one that raises does not keep the others from their news
            asyncio.get_running_loop().call_soon(callback, change)

    # Details

    def _log_of(self, deployment: str) -> DeploymentLog | None:
        if not deployment:
            return None
        try:
            file = next((file for file in self.logs() if file.deployment == deployment), None)
            return read_log(file) if file is not None else None
        except UnknownError as error:
            log.debug("%s", error)
            return None

    def _began(self, update: Update) -> Stamp:
        """When a deployment began that was under way when we came: it was at its log's first line."""
        now = self._clock.now()
        found = self._log_of(update.id)
        wall = found.began if found is not None else 0.0
        try:
            wall = wall or (self._paths.mender / _TREE / "version").stat().st_mtime
        except OSError:
            return now
        if not 0 < wall < now.wall:
            return now
        return replace(now, boottime=now.boottime - (now.wall - wall), wall=wall)


class _Installer:
    """The client that somebody started by hand: ``mender install``, ``mender-update commit`` and the like."""

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self._pid = 0

    def runs(self) -> bool:
        """Whether there is one."""
        if not self._is_one(self._pid):
            self._pid = next((pid for pid in self._procfs.pids() if self._is_one(pid)), 0)
        return bool(self._pid)

    def _is_one(self, pid: int) -> bool:
        arguments = self._procfs.arguments(pid) if pid else None
        if not arguments or arguments[0].rpartition("/")[2] not in _PROGRAMS:
            return False
        # Anybody can call a process so, and one of a set-uid program, too; we are root.
        if self._procfs.user_ids(pid) != (os.geteuid(), os.geteuid()):
            return False
        return any(argument.lstrip("-") in _BY_HAND for argument in arguments[1:])


def _tree(path: Path) -> Tree | None:
    """The work tree of the module, if there is one."""
    if not path.is_dir():
        return None
    return Tree(_word(path / "header/artifact_name"), _word(path / "header/payload_type"))


def _word(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 4 * MAX_NAME).decode(errors="replace").removesuffix("\n")[:MAX_NAME]
    except OSError:
        return ""
    finally:
        os.close(fd)


def _log_path(paths: Paths) -> list[Path]:
    """UpdateLogPath of mender.conf, which the older client does not follow."""
    conf = menderconf.parse(_text(paths.mender_conf), _text(paths.mender_fallback_conf))
    if not conf.update_log_path.startswith("/"):
        return []
    return [paths.root / conf.update_log_path.lstrip("/")]


def _text(path: Path) -> str | None:
    try:
        with open_regular(path) as file:
            return file.read(_MAX_CONF).decode(errors="replace")
    except OSError:
        return None
