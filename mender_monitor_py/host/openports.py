"""Sockets that take what comes to a port, with the processes that hold them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.netns import in_namespaces, other_namespaces
from mender_monitor_py.host.procfs import DELETED, Procfs
from mender_monitor_py.host.procnet import bound_sockets
from mender_monitor_py.host.replaced import Replaced
from mender_monitor_py.host.sockdiag import UDP, SockDiag, Socket
from mender_monitor_py.host.socketowners import find_holders
from mender_monitor_py.portlist import Holder, Listener

MAX_LISTENERS = 8_192  # that are wanted: each takes 2 KiB, and anybody may open them
HOLDERS_S = 60.0  # a descriptor can be handed on without a sign: all are looked up again
HIDDEN_S = 300.0  # the kernel goes through a table of all connections that there could be: some 4 ms
_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of the namespace that the reading thread is in

Wanted = Callable[[Listener], bool]


class _View(NamedTuple):
    """What is bound in one network namespace: sockets by protocol."""

    namespace: str
    clients: range
    sockets: dict[str, list[Socket]]


class OpenPorts:
    """
    The listeners of this network namespace, or of all.

    Who holds a socket is looked up when it is new, when one of its holders has ended or runs something else,
    and each :data:`HOLDERS_S`. Each :data:`HIDDEN_S` this namespace is compared with /proc/net. *crowded*:
    there are more than are looked at.
    """

    def __init__(
        self, procfs: Procfs, replaced: Replaced, protocols: Iterable[str], *, all_namespaces: bool
    ) -> None:
        self._procfs = procfs
        self._replaced = replaced
        self._protocols = tuple(protocols)
        self._all_namespaces = all_namespaces
        self._own: SockDiag | None = None
        self._views: list[_View] = []
        self._listeners: dict[tuple[str, str], dict[Socket, Listener]] = {}
        self._holders: dict[int, tuple[Holder, ...]] = {}
        self._executables: dict[int, str | None] = {}
        self._holders_until = 0.0
        self._hidden: dict[str, list[Socket]] = {}
        self._hidden_until = 0.0
        self._cut = False
        self.crowded = False

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None

    def look(self, wanted: Wanted, *, again: bool = False) -> list[Listener] | None:
        """
        The listeners that are *wanted*, or None when nothing has changed since the last look.

        *again*: also then. Raises UnknownError when the kernel cannot be asked, or when a holder may be a
        process that is not ours to look at.
        """
        try:
            stale = time.monotonic() >= self._holders_until or self._holders_changed()
            if any(self._hidden.values()) or time.monotonic() >= self._hidden_until:
                before, self._hidden = self._hidden, {one: self._find_hidden(one) for one in self._protocols}
                self._hidden_until = time.monotonic() + HIDDEN_S
                stale = stale or self._hidden != before
            views = self._dump()
            if not (again or stale or views != self._views):
                return None
            self._views = []  # to be looked at again, should anything fail from here on
            found = self._resolve(views, wanted, stale=stale)
        except OSError as error:
            raise UnknownError(f"the kernel does not tell the open ports: {error}") from error
        self._views = views
        return found

    def _diag(self) -> SockDiag:
        if self._own is None:
            self._own = SockDiag()
        return self._own

    def _find_hidden(self, protocol: str) -> list[Socket]:
        """What /proc/net has and sock_diag has not, twice: what comes or goes meanwhile hides from nobody."""
        missing = self._missing(protocol)
        again = self._missing(protocol) if missing else {}
        return [one for inode, one in again.items() if inode in missing]

    def _missing(self, protocol: str) -> dict[int, Socket]:
        known = {one.inode for one in self._diag().sockets(protocol)}
        if self._diag().is_cut(protocol):
            return {}
        return {one.inode: one for one in bound_sockets(protocol) if one.inode and one.inode not in known}

    def _dump(self) -> list[_View]:
        own = _view(self._diag(), self._protocols, "")
        self._cut = any(map(self._diag().is_cut, self._protocols))
        if not self._all_namespaces:
            return [own]
        others = other_namespaces(self._procfs)
        try:
            views = in_namespaces({inode: path for inode, (path, _) in others.items()}, self._dump_there)
        except PermissionError as error:
            raise UnknownError("PORTS_NAMESPACES=all needs the right to enter them: CAP_SYS_ADMIN") from error
        return [own, *(view._replace(namespace=others[inode][1]) for inode, view in sorted(views.items()))]

    def _dump_there(self) -> _View:
        sockets = SockDiag()
        try:
            view = _view(sockets, self._protocols, "")
            self._cut = self._cut or any(map(sockets.is_cut, self._protocols))
            return view
        finally:
            sockets.close()

    def _resolve(self, views: list[_View], wanted: Wanted, *, stale: bool) -> list[Listener]:
        listeners = self._wanted(views, wanted)
        if stale:
            self._holders = {}
            self._holders_until = time.monotonic() + HOLDERS_S
        self._find_holders(listeners)
        if any(listener.inode and listener.inode not in self._holders for listener in listeners):
            # A socket may have been closed before its holder was found: what is still there counts.
            listeners = self._wanted(self._dump(), wanted)
            complete = self._find_holders(listeners)
            lost = [one.port for one in listeners if one.inode and one.inode not in self._holders]
            # With the right to look everywhere, a process that cannot be looked at hides something.
            if lost and not complete and not self._procfs.sees_all():
                raise UnknownError(f"not permitted to see who holds {', '.join(lost[:10])}: CAP_SYS_PTRACE")
        known = {listener.inode for listener in listeners}
        self._holders = {inode: holders for inode, holders in self._holders.items() if inode in known}
        pids = {holder.pid for holders in self._holders.values() for holder in holders}
        self._executables = {pid: self._executable(pid) for pid in pids}
        return [one._replace(holders=self._holders.get(one.inode, ())) for one in listeners]

    def _wanted(self, views: list[_View], wanted: Wanted) -> list[Listener]:
        found = [listener for listener in self._all(views) if wanted(listener)]
        self.crowded = self._cut or len(found) > MAX_LISTENERS
        return found[:MAX_LISTENERS]

    def _all(self, views: list[_View]) -> Iterator[Listener]:
        """Every listener; one that was there before is the same object."""
        before, self._listeners = self._listeners, {}
        for view in views:
            for protocol, sockets in view.sockets.items():
                known = before.get((view.namespace, protocol), {})
                now = {one: known.get(one) or _listener(view, protocol, one) for one in sockets}
                self._listeners[view.namespace, protocol] = now
                yield from now.values()
                for one in () if view.namespace else self._hidden.get(protocol, ()):
                    yield _listener(view, protocol, one)._replace(hidden=True)

    def _find_holders(self, listeners: Iterable[Listener]) -> bool:
        """Look up the holders that are not known. False when some processes were not ours to look at."""
        inodes = {one.inode for one in listeners if one.inode} - self._holders.keys()
        if not inodes:
            return True
        found = find_holders(self._procfs, inodes)
        holders: dict[int, Holder | None] = {}
        for inode, pids in found.pids.items():
            for pid in pids:
                if pid not in holders:
                    holders[pid] = self._holder(pid)
            there = tuple(holder for pid in pids if (holder := holders[pid]) is not None)
            if there:
                self._holders[inode] = there
        return found.complete

    def _holder(self, pid: int) -> Holder | None:
        stat, executable = self._procfs.stat(pid), self._executable(pid)
        if stat is None or executable is None:
            return None
        return Holder(pid, stat.name, executable)

    def _executable(self, pid: int) -> str | None:
        """
        The path. One that is deleted says so, unless another file is there, as after an upgrade without a
        restart, or a deployment has removed it.
        """
        try:
            executable = self._procfs.executable(pid)
        except PermissionError:
            return ""
        if executable is not None and executable.endswith(DELETED):
            path = executable.removesuffix(DELETED)
            if os.path.lexists(f"{self._procfs.path}/{pid}/root{path}"):
                return path
            return self._replaced.path(pid) or executable
        return executable

    def _holders_changed(self) -> bool:
        return any(self._executable(pid) != executable for pid, executable in self._executables.items())


def _view(sockets: SockDiag, protocols: Iterable[str], namespace: str) -> _View:
    return _View(namespace, _client_ports(), {protocol: sockets.sockets(protocol) for protocol in protocols})


def _client_ports() -> range:
    found = re.findall(r"\d+", _CLIENTS.read_text())
    return range(int(found[0]), int(found[1]) + 1)


def _listener(view: _View, protocol: str, one: Socket) -> Listener:
    client = protocol == UDP and one.port in view.clients
    return Listener(protocol, one.port, one.address, one.loopback, client, view.namespace, one.inode)
