"""Which process a check means: by executable, by pid file, or by command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mender_monitor_py.host.pattern import Pattern
from mender_monitor_py.host.procfs import DELETED, Procfs, Stat
from mender_monitor_py.host.regularfile import open_regular
from mender_monitor_py.pidwatch import pid_in_file

_FILE_SLACK_S = 5.0  # the clock of a file's times is coarse, and may have been set meanwhile
_MAX_COMMAND_LINE = 4096


class Found(NamedTuple):
    """The process, or the reason why there is none."""

    stat: Stat | None
    reason: str = ""


def by_executable(procfs: Procfs, path: str) -> Found:
    """The main process among those that run *path*, what it links to, or what it was before an upgrade."""
    paths = {path, os.path.realpath(path)}

    def runs(pid: int) -> bool:
        executable = procfs.executable(pid)
        return executable is not None and executable.removesuffix(DELETED) in paths

    return Found(main_of(_matching(procfs, runs)), f"no process runs {path}")


def by_command_line(procfs: Procfs, pattern: Pattern) -> Found:
    """The main process among those whose command line, its arguments apart by spaces, matches."""

    def matches(pid: int) -> bool:
        data = procfs.read(pid, "cmdline") if pid != os.getpid() else None
        line = (data or b"")[:_MAX_COMMAND_LINE].rstrip(b"\0").replace(b"\0", b" ").replace(b"\n", b" ")
        return bool(line) and pattern.find(line + b"\n") is not None

    return Found(main_of(_matching(procfs, matches)), "no process has such a command line")


def by_pid_file(procfs: Procfs, path: str, boottime: float, wall: float) -> Found:
    """
    The process that the pid file *path* names, unless it cannot be the one that wrote it.

    *boottime* and *wall* are both clocks now.
    """
    try:
        with open_regular(path) as file:
            status, data = os.fstat(file.fileno()), file.read(256)
    except OSError as error:
        return Found(None, f"{path} cannot be read: {error.strerror}")
    pid = pid_in_file(data.decode("utf-8", "replace"))
    if pid is None:
        return Found(None, f"{path} holds no process number")
    stat = procfs.stat(pid)
    if stat is None or stat.state == "Z":
        return Found(None, f"{path} is stale: process {pid} does not run")
    lie = _lie(procfs, stat, status, boottime, wall)
    return Found(None, f"{path} is not to be believed: {lie}") if lie else Found(stat)


def main_of(stats: Iterable[Stat]) -> Stat | None:
    """Of processes that run the same program, the one that the others come from; the oldest of several."""
    known = {stat.pid: stat for stat in stats if stat.state != "Z"}
    roots = [stat for stat in known.values() if stat.parent not in known]
    return min(roots, key=lambda stat: (stat.start, stat.pid), default=None)


def _lie(procfs: Procfs, stat: Stat, status: os.stat_result, boottime: float, wall: float) -> str:
    if stat.kernel_thread:
        return f"{stat.pid} is a thread of the kernel"
    leader = procfs.group_leader(stat.pid)
    if leader is not None and leader != stat.pid:
        return f"{stat.pid} is a thread of process {leader}"
    started = wall - (procfs.age(stat.pid, boottime) or 0.0)
    if started > status.st_mtime + _FILE_SLACK_S:
        return f"process {stat.pid} started after the file was written: the number is used again"
    uid = procfs.user_id(stat.pid)
    # Who is not root can only speak for himself; see PIDFile= in systemd.service(5).
    if status.st_uid not in (0, uid):
        return f"it belongs to {procfs.user(status.st_uid)}, and process {stat.pid} does not"
    if status.st_mode & 0o002:
        return "everybody can write it"
    return ""


def _matching(procfs: Procfs, matches: Callable[[int], bool]) -> Iterable[Stat]:
    for pid in procfs.pids():
        try:
            found = matches(pid)
        except PermissionError:
            continue
        if found and (stat := procfs.stat(pid)) is not None:
            yield stat
