"""
What processes do, as it happens: one source for all checks, open while one of them listens.

Two interfaces of the kernel, which complement each other: the process connector tells every exec and exit,
fanotify which file was executed. Either may be missing; :attr:`ProcessEvents.limits` says which and why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.fanotify import ExecOpens
from mender_monitor_py.host.mounts import Mount, MountTable, same_mounts
from mender_monitor_py.host.procconnector import EXEC, EXIT, FORK, Event, ProcConnector
from mender_monitor_py.host.procfs import exists
from mender_monitor_py.proclist import Opened, Opening

SYSTEM = "1"  # the process that has the mounts of the system
_MOST_OPENING = 4096
_FAMILY_S = 60.0  # for which what the family has done is asked for after its end
_MOST_ENDED = 4096  # of the family
_MOST_READS = 64  # in one go: programs may be started faster than that is read

log = logging.getLogger(__name__)


class Execution(NamedTuple):
    """
    A process executed programs *times* times; *programs* are the files of those that are known.

    Each is a group as :class:`proclist.Opening` makes them: scripts, and the program that runs them. Files
    may be told a moment before they are executed, *ahead*; 0 *times*: that has happened now.
    """

    pid: int
    times: int
    programs: tuple[tuple[Opened, ...], ...]
    ahead: bool = False


class Birth(NamedTuple):
    """A process was started by *parent*, and that by *grandparent*; 0 when that was not seen."""

    parent: int
    grandparent: int


class Exit(NamedTuple):
    """A process ended; *status* is as wait(2) has it."""

    pid: int
    status: int


class Listener(Protocol):
    """Who wants to know. Nothing here may block or raise."""

    def executed(self, executions: list[Execution]) -> None: ...

    def exited(self, exits: list[Exit]) -> None: ...

    def events_lost(self) -> None:
        """Events are missing, now or for ever: time for a full look."""

    def mounts_changed(self) -> None: ...


class ProcessEvents:
    """
    Tells its listeners. The interfaces are opened for the first one, and closed after the last.

    *born* has the processes whose start was seen and whose end was not, *family* those that :meth:`follow`
    named, all that they have started, and for a while those of them that have ended, until another process
    has the number. *limits* says what the kernel does not tell, and why. *lost* counts events that are known
    to be missing.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._lock = asyncio.Lock()
        self._mounts: MountTable | None = None
        self._system_mounts: MountTable | None = None
        self._connector: ProcConnector | None = None
        self._opens: ExecOpens | None = None
        self._opening_of: OrderedDict[int, Opening] = OrderedDict()
        self.born: dict[int, Birth] = {}
        self.family: set[int] = set()
        self._ended_of_family: OrderedDict[int, float] = OrderedDict()
        self.limits: dict[str, str] = {}

    @property
    def lost(self) -> int:
        connector = self._connector.lost + self._connector.overruns if self._connector else 0
        return connector + (self._opens.lost if self._opens else 0)

    @property
    def sees_execs(self) -> bool:
        """Whether every execution is told."""
        return self._connector is not None or self._opens is not None

    @property
    def sees_exits(self) -> bool:
        """Whether every end of a process is told."""
        return self._connector is not None

    async def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell *listener* from now on; returns the undo."""
        async with self._lock:
            if not self._listeners:
                try:
                    await self._open()
                except BaseException:  # cancelled on the way
                    self.close()
                    raise
            self._listeners.append(listener)

        def undo() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
                if not self._listeners:
                    self.close()

        return undo

    @asynccontextmanager
    async def listening(self, listener: Listener) -> AsyncIterator[None]:
        """Tell *listener* within the block."""
        undo = await self.listen(listener)
        try:
            yield
        finally:
            undo()

    def follow(self, pids: Iterable[int]) -> None:
        """Keep the :attr:`family` of *pids*, where the connector tells of births."""
        self.family = set(pids)
        self._ended_of_family.clear()

    def catch_up(self) -> None:
        """
        Take in what the connector has to tell by now.

        For who reads of a process elsewhere: its start was told before all that it does, and may wait here.
        """
        for _ in range(_MOST_READS):
            if self._connector is None or not self._read():
                break

    def mounts(self) -> list[Mount]:
        """
        The mounts of our namespace, and those of the first process.

        A service manager gives us a /proc of our own: what is mounted over the system's does not show there.
        """
        tables = [table for table in (self._mounts, self._system_mounts) if table is not None]
        return list({(mount.path, mount.kind): mount for table in tables for mount in table.read()}.values())

    def close(self) -> None:
        """End all that is open."""
        loop = asyncio.get_running_loop()
        if self._connector is not None:
            loop.remove_reader(self._connector.fileno())
            self._connector.close()
        if self._opens is not None:
            loop.remove_reader(self._opens.fileno())
            self._opens.close()
        for table in (self._mounts, self._system_mounts):
            if table is not None:
                table.close()
        self._connector = self._opens = self._mounts = self._system_mounts = None
        self._listeners.clear()
        self.born.clear()
        self.follow(())
        self._opening_of.clear()

    async def _open(self) -> None:
        self.limits = {}
        loop = asyncio.get_running_loop()
        try:
            self._mounts = MountTable(self._mounts_changed)
            if not same_mounts(SYSTEM):
                self._system_mounts = MountTable(self._mounts_changed, SYSTEM)
            self._opens = ExecOpens()
            self._mark()
        except OSError as error:
            self.limits["mounts"] = f"the mounts cannot be read: {error}"
        except UnknownError as error:
            self._without_opens(str(error))
        try:
            self._connector = await ProcConnector.open()
            loop.add_reader(self._connector.fileno(), self._read)
        except UnknownError as error:
            self.limits["connector"] = str(error)
            if self._opens is not None:
                loop.add_reader(self._opens.fileno(), self._read_opens)

    def _mark(self) -> None:
        if self._opens is None or self._mounts is None:
            return
        self._opens.mark(self._mounts.read())
        where = ", ".join(self._opens.unmarked[:5])
        self.limits["file systems"] = where and f"what is executed there is not told (fanotify): {where}"

    def _without_opens(self, reason: str) -> None:
        self.limits["fanotify"] = reason
        if self._opens is not None:
            asyncio.get_running_loop().remove_reader(self._opens.fileno())
            self._opens.close()
            self._opens = None

    def _mounts_changed(self) -> None:
        try:
            self._mark()
        except UnknownError as error:
            self._without_opens(str(error))
        for listener in list(self._listeners):
            listener.mounts_changed()

    def _read(self) -> bool:
        """
        Events of the connector are there; the files that they are about were opened before.

        False when there were none.
        """
        assert self._connector is not None
        lost = self.lost
        try:
            events = self._connector.read()
        except OSError as error:
            self._connector_ended(error)
            return False
        executed = any(event.what == EXEC for event in events)
        opened = self._opens.read() if executed and self._opens is not None else []
        found = self._executions(events, opened)
        exits = self._exits(events)
        if self.lost != lost:
            self._forget_ended()
        self._tell(found, exits, lost=self.lost != lost)
        return bool(events)

    def _read_opens(self) -> None:
        """Without the connector: a file that was opened to be executed is taken for executed."""
        assert self._opens is not None
        lost = self.lost
        found = []
        for pid, opened in _by_pid(self._opens.read()).items():
            groups = self._opening_of.setdefault(pid, Opening()).add(opened)
            self._opening_of.move_to_end(pid)
            if groups:
                found.append(Execution(pid, len(groups), tuple(groups)))
        # Nothing tells which have ended. Of the newest, a program may be known and its loader not yet.
        while len(self._opening_of) > _MOST_OPENING:
            self._opening_of.popitem(last=False)
        self._tell(found, [], lost=self.lost != lost)

    def _tell(self, found: list[Execution], exits: list[Exit], *, lost: bool) -> None:
        for listener in list(self._listeners):
            if found:
                listener.executed(found)
            if exits:
                listener.exited(exits)
            if lost:
                listener.events_lost()

    def _executions(self, events: list[Event], opened: list[Opened]) -> list[Execution]:
        """
        What was executed, by process.

        The files of an exec are opened before its event; those that have no event yet belong to one
        that is still to come, or to an attempt that failed. They are told at once, and set off against the
        next event.
        """
        counts: dict[int, int] = {}
        for event in events:
            if event.what == EXEC:
                counts[event.pid] = counts.get(event.pid, 0) + 1
        files = _by_pid(opened)
        found = []
        for pid in {**files, **counts}:
            opening = self._opening_of.setdefault(pid, Opening())
            programs, count = opening.add(files.get(pid, ())), counts.get(pid, 0)
            opening.ahead += len(programs) - count
            unnamed = max(-opening.ahead, 0)
            if count and opening.ahead <= 0:
                del self._opening_of[pid]
            if programs or unnamed or count:
                ahead = opening.ahead > 0
                found.append(Execution(pid, len(programs) + unnamed, tuple(programs), ahead))
        return found

    def _exits(self, events: list[Event]) -> list[Exit]:
        found = []
        for event in events:
            if event.what == FORK:
                if event.first == event.second:
                    self._started(event.second, event.pid)
            elif event.what == EXIT and event.thread == event.pid:
                self._opening_of.pop(event.pid, None)
                self.born.pop(event.pid, None)
                if event.pid in self.family:
                    self._ended_of_family[event.pid] = time.monotonic()
                found.append(Exit(event.pid, event.first))
        self._shrink_family()
        return found

    def _started(self, pid: int, parent: int) -> None:
        born = self.born.get(parent)
        self.born[pid] = Birth(parent, born.parent if born else 0)
        self._ended_of_family.pop(pid, None)  # the number of one that has ended
        if parent in self.family:
            self.family.add(pid)
        else:
            self.family.discard(pid)

    def _shrink_family(self) -> None:
        """Those that ended long ago, or first of too many, are none of it any more."""
        long_ago = time.monotonic() - _FAMILY_S
        while self._ended_of_family:
            pid, ended = self._ended_of_family.popitem(last=False)
            if ended >= long_ago and len(self._ended_of_family) < _MOST_ENDED:
                self._ended_of_family[pid] = ended
                self._ended_of_family.move_to_end(pid, last=False)
                break
            self.family.discard(pid)

    def _forget_ended(self) -> None:
        """Ends may be among the events that were lost: what has ended would be kept for ever."""
        for pid in [pid for pid in self.born if not exists(pid)]:
            del self.born[pid]
        for pid in [pid for pid in self._opening_of if not exists(pid)]:
            del self._opening_of[pid]
        # One that has ended and is there is another one, whose start was among them.
        reused = [pid for pid in self._ended_of_family if exists(pid)]
        for pid in reused:
            del self._ended_of_family[pid]
        self.family.difference_update(reused)
        self.family = {pid for pid in self.family if pid in self._ended_of_family or exists(pid)}

    def _connector_ended(self, error: OSError) -> None:
        assert self._connector is not None
        reason = f"the process connector ended: {error}"
        log.error("%s", reason)
        asyncio.get_running_loop().remove_reader(self._connector.fileno())
        self._connector.close()
        self._connector = None
        self.limits["connector"] = reason
        if self._opens is not None:
            asyncio.get_running_loop().add_reader(self._opens.fileno(), self._read_opens)
        self._tell([], [], lost=True)


def _by_pid(opened: list[Opened]) -> dict[int, list[Opened]]:
    found: dict[int, list[Opened]] = {}
    for one in opened:
        found.setdefault(one.pid, []).append(one)
    return found
