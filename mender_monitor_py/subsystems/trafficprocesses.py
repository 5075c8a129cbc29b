"""Whose traffic it is: TCP connections by their counters, and the processes that hold them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mender_monitor_py.commandline import printable
from mender_monitor_py.host.procfs import Process, Procfs, unit_of
from mender_monitor_py.host.socketowners import find_holders
from mender_monitor_py.host.tcpcounters import Connection, TcpCounters
from mender_monitor_py.trafficshares import Shares, Who
from mender_monitor_py.trafficwindow import Bytes

MAX_CONNECTIONS = 4096
OWN_UNITS = "mender-monitor"  # what the units of this product begin with


@dataclass(slots=True)
class _Followed:
    """
    A connection: its counters, as far as they were counted, and for whom. None: not looked up yet.

    *gone*: it was not there at the last look, and its end, which the kernel tells a moment later, is awaited.
    """

    counters: Bytes
    who: Who | None = None
    gone: bool = False


class Connections:
    """
    Counts the TCP connections of this network namespace for the processes that hold them.

    Who holds one is looked up once, when it has transferred *least* bytes. Raises OSError.
    """

    def __init__(self, procfs: Procfs, least: int) -> None:
        self._procfs = procfs
        self._least = least
        self._tcp = TcpCounters()
        self._ended: list[Connection] = []
        self._followed: dict[bytes, _Followed] = {}
        self._at: float | None = None
        self._crowded = False
        self._complete = True

    def limits(self) -> list[str]:
        """What keeps us from naming all."""
        found = {
            "processes are not all named: CAP_SYS_PTRACE": not self._complete,
            f"more than {MAX_CONNECTIONS} connections": self._crowded,
            "some connections ended unseen": self._tcp.lost > 0,
        }
        return [text for text, limited in found.items() if limited]

    def close(self) -> None:
        self._tcp.close()

    def any_ended(self) -> bool:
        """Whether connections have ended since the last look."""
        self._ended += self._tcp.ended()
        return bool(self._ended)

    def look(
        self, now: float, addresses: Mapping[bytes, int], shares: Mapping[int, Shares], *, living: bool
    ) -> None:
        """
        Count what has ended since the last look for the interfaces in *shares*; *addresses* are ours.

        *living*: those that live, too, and find out who holds them.
        """
        self._count_ended(now, addresses, shares)
        if living:
            self._count_living(now, addresses, shares)
            self._count_ended(now, addresses, shares)  # those of this moment

    def _count_ended(self, now: float, addresses: Mapping[bytes, int], shares: Mapping[int, Shares]) -> None:
        self.any_ended()
        ended, self._ended = self._ended, []
        since = now if self._at is None else self._at
        for one in ended:
            followed = self._followed.pop(one.cookie, None)
            share = shares.get(_interface(one, addresses))
            if share is not None:
                before, who = (followed.counters, followed.who) if followed else (Bytes(), None)
                share.add(who or _unseen(one), since, now, _grown(one.counters, before))

    def _count_living(self, now: float, addresses: Mapping[bytes, int], shares: Mapping[int, Shares]) -> None:
        first, since = self._at is None, now if self._at is None else self._at
        before, self._followed = self._followed, {}
        unknown_too = not first and not self._crowded
        self._crowded = False
        active: list[tuple[Connection, _Followed]] = []
        for one in self._tcp.connections():
            if one.loopback or one.remote in addresses:
                continue
            followed = before.get(one.cookie)
            if followed is None:
                # All that was there at the last look is known: what is new has transferred all since.
                followed = _Followed(Bytes() if unknown_too else one.counters)
            followed.gone = False
            if len(self._followed) >= MAX_CONNECTIONS:
                self._crowded = True
                continue
            self._followed[one.cookie] = followed
            if one.counters != followed.counters and _interface(one, addresses) in shares:
                active.append((one, followed))
        for cookie, followed in before.items():
            if cookie not in self._followed and not followed.gone:
                followed.gone = True
                self._followed[cookie] = followed
        self._find([(one, f) for one, f in active if f.who is None and self._is_much(one, f)])
        for one, followed in active:
            if followed.who is not None:
                grown = _grown(one.counters, followed.counters)
                shares[_interface(one, addresses)].add(followed.who, since, now, grown)
                followed.counters = one.counters
        self._at = now

    def _is_much(self, one: Connection, followed: _Followed) -> bool:
        return sum(_grown(one.counters, followed.counters)) >= self._least

    def _find(self, wanted: Collection[tuple[Connection, _Followed]]) -> None:
        if not wanted:
            return
        holders = find_holders(self._procfs, {one.inode for one, _ in wanted if one.inode})
        self._complete = holders.complete or self._procfs.sees_all()
        known: dict[int, Who | None] = {}
        for one, followed in wanted:
            followed.who = self._newest(holders.pids.get(one.inode, ()), known)
        if any(followed.who is None for _, followed in wanted):
            inodes = {one.cookie: one.inode for one in self._tcp.connections()}
            for one, followed in wanted:
                if followed.who is None:
                    # What was closed, maybe just now, is sent to its end without a process.
                    followed.who = _unheld(one) if inodes.get(one.cookie) else _unseen(one)

    def _newest(self, pids: Iterable[int], known: dict[int, Who | None]) -> Who | None:
        """Of several holders the one that started last: its parents gave it the connection."""
        found: list[tuple[int, Who]] = []
        for pid in pids:
            if pid not in known:
                known[pid] = self._who(pid)
            who, stat = known[pid], self._procfs.stat(pid)
            if who is not None and stat is not None:
                found.append((stat.start, who))
        return max(found, key=lambda one: one[0])[1] if found else None

    def _who(self, pid: int) -> Who | None:
        process, stat = self._procfs.describe(pid), self._procfs.stat(pid)
        if process is None or stat is None:
            return None
        own = is_own_unit(self._procfs.cgroup(pid)) or os.getpid() in (pid, stat.parent)
        return Who(_program(process), process.executable or f"[{process.name}]", tuple(process.lines()), own)


def is_own_unit(cgroup: str) -> bool:
    """Whether a control group is that of one of our units; a user can call his own units as he likes."""
    return unit_of(cgroup).startswith(OWN_UNITS) and "user.slice" not in cgroup and "user@" not in cgroup


def _program(process: Process) -> tuple[str, ...]:
    return "program", process.executable, process.user, process.unit, process.container


def _unseen(one: Connection) -> Who:
    text = f"connections with {one.peer} that ended before their process was seen"
    return Who(("ended", one.peer), printable(text))


def _unheld(one: Connection) -> Who:
    text = f"connections with {one.peer} that no process seems to hold: the kernel's, or a hidden one's"
    return Who(("unheld", one.peer), printable(text))


def _interface(one: Connection, addresses: Mapping[bytes, int]) -> int:
    """The interface that the connection goes over: its address's. 0: of none, or within this machine."""
    if one.loopback or one.remote in addresses:
        return 0
    return one.interface or addresses.get(one.local, 0)


def _grown(now: Bytes, before: Bytes) -> Bytes:
    return Bytes(max(now.received - before.received, 0), max(now.sent - before.sent, 0))
