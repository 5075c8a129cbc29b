"""
Processes that exist, but that a listing of /proc does not show.

Whoever filters the listing has to lie at every place that knows of a process: the kernel's answer to signal
0, the control groups, the process connector, the numbers of netlink sockets.
"""

# ruff: noqa: PTH123 - pathlib takes several times as long, and a look is hundreds of these calls

from __future__ import annotations

import os
import re
import select
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py.host.mounts import Mount
from mender_monitor_py.host.procfs import Procfs, exists

SWEPT = 16_384  # numbers that are asked for in one look: some 10 ms

_COVER = re.compile(r"/proc/(\d+)(?:/.*)?")


class Hidden(NamedTuple):
    """A process, and what gave it away."""

    pid: int
    evidence: str


class HiddenProcesses:
    """
    Looks for them. No look asks for all numbers that a process can have: they are gone through in turns, the
    most recent ones first.
    """

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self._low = 1
        self._high = 1

    def look(self, born: Collection[int], mounts: Iterable[Mount]) -> list[Hidden]:
        """*born* are processes that are alive as far as the kernel told; *mounts* those of our namespace."""
        mounts = list(mounts)
        candidates: dict[int, str] = {}
        listed = set(self._procfs.pids())
        for pid in self._sweep():
            if pid not in listed and exists(pid):
                candidates.setdefault(pid, "it answers to signal 0")
        for pid, group in cgroup_processes(mounts):
            if pid not in listed:
                candidates.setdefault(pid, f"it is in the control group {group}")
        for pid in set(born) - listed:
            candidates.setdefault(pid, "the process connector told its start, and no end")
        for pid in netlink_ports(self._read("net/netlink")):
            if pid not in listed:
                candidates.setdefault(pid, "it has a netlink socket")
        found = {pid: Hidden(pid, text) for pid, text in candidates.items() if self._is_hidden(pid)}
        for pid, path in covered(mounts):
            if exists(pid):
                found[pid] = Hidden(pid, f"a mount covers {path}")
        return [found[pid] for pid in sorted(found)]

    def _is_hidden(self, pid: int) -> bool:
        """Whether *pid* is a process, no thread, that lives before and after a listing without it."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # it ended, or is a thread's number
            return False
        try:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            return pid not in self._procfs.pids() and not ended.poll(0)
        finally:
            os.close(descriptor)

    def _sweep(self) -> Iterator[int]:
        """The numbers whose turn it is: some of those that are given out these days, some of the rest."""
        limit = int(self._read("sys/kernel/pid_max") or 32_768)
        recent = min(int((self._read("loadavg").split() or ["0"])[-1]) + 1, limit)
        low = self._low if self._low < recent else 1
        yield from range(low, min(low + SWEPT, recent))
        self._low = low + SWEPT
        high = self._high if recent <= self._high < limit else recent
        yield from range(high, min(high + SWEPT, limit))
        self._high = high + SWEPT

    def _read(self, name: str) -> str:
        try:
            return Path(self._procfs.path, name).read_text("utf-8", "replace")
        except OSError:
            return ""


def covered(mounts: Iterable[Mount]) -> Iterator[tuple[int, str]]:
    """The processes whose folder in /proc, or something in it, is under a mount."""
    for mount in mounts:
        if found := _COVER.fullmatch(mount.path):
            yield int(found[1]), mount.path


def cgroup_processes(mounts: Iterable[Mount]) -> Iterator[tuple[int, str]]:
    """The processes in the control groups, with the group: the unified hierarchy, or that of ``pids``."""
    for mount in mounts:
        if mount.kind == "cgroup2" or (mount.kind == "cgroup" and "pids" in mount.options.split(",")):
            for folder, _, files in os.walk(mount.path):
                if "cgroup.procs" in files:
                    for pid in _numbers(f"{folder}/cgroup.procs"):
                        yield pid, folder.removeprefix(mount.path) or "/"


def netlink_ports(text: str) -> Iterator[int]:
    """The port numbers of netlink sockets: the kernel gives a process its own number for the first one."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[2].isdigit() and 0 < int(fields[2]) < 2**22:
            yield int(fields[2])


def _numbers(path: str) -> list[int]:
    try:
        with open(path) as file:
            return [int(line) for line in file if line.strip() != "0"]  # 0: of another PID namespace
    except (OSError, ValueError):
        return []
