"""
Processes, as /proc shows them; see proc(5).

A process may end between two reads, and its number may then be another's: whatever belongs together is read
again until its start time is the same before and after.
"""

# ruff: noqa: PTH115, PTH123, PTH208 - pathlib takes several times as long, and a look is thousands of these calls

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py.commandline import printable, shown

PF_KTHREAD = 0x00200000  # <linux/sched.h>
_CAP_SYS_PTRACE = 19  # <linux/capability.h>
DELETED = " (deleted)"
_TICKS = os.sysconf("SC_CLK_TCK")
_MAX_READ = 65_536
_CONTAINER = re.compile(
    r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?:/|$)|/(?:lxc(?:\.payload)?[./]|machine-)([^/]+?)(?:\.scope)?(?:/|$)"
)
_UNIT = re.compile(r"([^/]+\.(?:service|scope|socket|mount|swap|timer))(?:/|$)")


class Identity(NamedTuple):
    """What tells a process from every other since boot; *start* is in clock ticks since boot."""

    pid: int
    start: int


class Stat(NamedTuple):
    """/proc/PID/stat, the part that is of use."""

    pid: int
    name: str
    state: str
    parent: int
    flags: int
    start: int

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start)

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)


@dataclass(frozen=True, slots=True)
class Process:
    """
    Who did it: all that helps a person to judge a process. Texts are printable, bounded, and free of secrets.

    *started* is seconds since the epoch by the present wall clock; *unit* and *container* may be empty.
    """

    identity: Identity
    name: str
    executable: str
    command_line: str
    user: str
    parent: str
    unit: str
    container: str
    started: float

    def lines(self) -> list[str]:
        """For an alert's details, one fact a line."""
        moment = datetime.fromtimestamp(self.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = (
            ("pid", str(self.identity.pid)),
            ("executable", self.executable or "not known"),
            ("command line", self.command_line or f"[{self.name}]"),
            ("user", self.user),
            ("parent", self.parent or "none"),
            ("systemd unit", self.unit or "none"),
            ("container", self.container or "none"),
            ("started", moment),
        )
        return [f"{name}: {value}" for name, value in facts]


class Procfs:
    """
    Reads /proc under *root*.

    Every reader gives None, or nothing, for a process that has ended. PermissionError is for the caller.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.path = str(root / "proc")
        self._passwd = root / "etc/passwd"
        self._users: tuple[float, dict[int, str]] = (-1.0, {})

    def pids(self) -> list[int]:
        """The processes in a listing of /proc. Raises OSError when there is none."""
        return [int(name) for name in os.listdir(self.path) if name.isdigit()]

    def stat(self, pid: int) -> Stat | None:
        """The state of *pid*; a thread's number works too."""
        data = self.read(pid, "stat")
        return parse_stat(data) if data else None

    def identity(self, pid: int) -> Identity | None:
        found = self.stat(pid)
        return found.identity if found else None

    def executable(self, pid: int) -> str | None:
        """The path of the executable, with ``(deleted)`` where it is; empty for a kernel thread."""
        try:
            return os.readlink(f"{self.path}/{pid}/exe")
        except (FileNotFoundError, ProcessLookupError):
            # A kernel thread has no executable, a process that ended has no folder any more.
            return "" if os.path.lexists(f"{self.path}/{pid}") else None

    def folder(self, pid: int) -> str:
        """The working directory; empty when it cannot be read."""
        try:
            return os.readlink(f"{self.path}/{pid}/cwd")
        except OSError:
            return ""

    def arguments(self, pid: int) -> list[str] | None:
        """The command line. Empty for a kernel thread, and for a process that nobody waited for."""
        data = self.read(pid, "cmdline")
        if data is None:
            return None
        return os.fsdecode(data.removesuffix(b"\0")).split("\0") if data else []

    def user_id(self, pid: int) -> int | None:
        """The effective user; see proc(5), status."""
        found = self.user_ids(pid)
        return found[1] if found else None

    def user_ids(self, pid: int) -> tuple[int, int] | None:
        """The real user, who has started it, and the effective one."""
        found = re.search(rb"^Uid:\t(\d+)\t(\d+)", self.read(pid, "status") or b"", re.MULTILINE)
        return (int(found[1]), int(found[2])) if found else None

    def group_leader(self, pid: int) -> int | None:
        """The process that the thread *pid* belongs to; for a process itself."""
        found = re.search(rb"^Tgid:\t(\d+)", self.read(pid, "status") or b"", re.MULTILINE)
        return int(found[1]) if found else None

    def user(self, uid: int) -> str:
        """The name in /etc/passwd, else the number. No name service is asked: that may need a network."""
        return self._user_names().get(uid, str(uid))

    def cgroup(self, pid: int) -> str:
        """The path of the control group that the service manager made; empty when there is none."""
        return parse_cgroup((self.read(pid, "cgroup") or b"").decode("utf-8", "replace"))

    def describe(self, pid: int) -> Process | None:
        """All about *pid*, or None when it ended meanwhile."""
        before = self.stat(pid)
        if before is None:
            return None
        arguments = self.arguments(pid)
        executable = self._executable_or_reason(pid)
        uid = self.user_id(pid)
        cgroup = self.cgroup(pid)
        if arguments is None or executable is None or uid is None or self.identity(pid) != before.identity:
            return None
        return Process(
            identity=before.identity,
            name=printable(before.name),
            executable=printable(executable),
            command_line=shown(arguments),
            user=self.user(uid),
            parent=self._parent(before.parent),
            unit=unit_of(cgroup),
            container=container_of(cgroup),
            started=self.started(before.start),
        )

    def started(self, ticks: int) -> float:
        """The wall time of a start time in ticks since boot."""
        with open(f"{self.path}/stat", "rb") as file:
            found = re.search(rb"^btime (\d+)", file.read(), re.MULTILINE)
        return (int(found[1]) if found else 0) + ticks / _TICKS

    def age(self, pid: int, boottime: float) -> float | None:
        """How many seconds ago *pid* started; *boottime* is CLOCK_BOOTTIME now."""
        found = self.stat(pid)
        return boottime - since_boot(found.start) if found else None

    def descriptors(self, pid: int) -> Iterator[str]:
        """What the descriptors of *pid* are: ``socket:[123]``, paths. Raises PermissionError."""
        folder = f"{self.path}/{pid}/fd"
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, ProcessLookupError):
            return
        for name in names:
            try:
                yield os.readlink(f"{folder}/{name}")
            except (FileNotFoundError, ProcessLookupError):
                continue

    def namespace(self, kind: str, process: int | str) -> str:
        """
        The one that a process, or ``self``, is in, of a *kind* as ``mnt``: see namespaces(7).

        Empty when it ended, or is not ours to see.
        """
        try:
            return os.readlink(f"{self.path}/{process}/ns/{kind}")
        except OSError:
            return ""

    def sees_all(self) -> bool:
        """Whether we may look at every process: CAP_SYS_PTRACE, see ptrace(2) on access mode checks."""
        found = re.search(rb"^CapEff:\t([0-9a-f]+)", self.read(os.getpid(), "status") or b"", re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> _CAP_SYS_PTRACE & 1)

    def read(self, pid: int, name: str) -> bytes | None:
        """The start of a file of *pid*; None when the process ended."""
        try:
            descriptor = os.open(f"{self.path}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return None
        try:
            return os.read(descriptor, _MAX_READ)
        except ProcessLookupError:
            return None
        finally:
            os.close(descriptor)

    def _executable_or_reason(self, pid: int) -> str | None:
        try:
            return self.executable(pid)
        except PermissionError:
            return "(no permission to see it)"

    def _parent(self, pid: int) -> str:
        found = self.stat(pid) if pid else None
        if found is None:
            return str(pid) if pid else ""
        return f"{pid} {printable(self._executable_or_reason(pid) or f'[{found.name}]')}"

    def _user_names(self) -> dict[int, str]:
        try:
            changed = self._passwd.stat().st_mtime
            if changed != self._users[0]:
                rows = (line.split(":") for line in self._passwd.read_text("utf-8", "replace").splitlines())
                users: dict[int, str] = {}
                for row in rows:
                    # "+::::::" is no user: it has NIS asked, see nsswitch.conf(5).
                    if len(row) == 7 and row[2].isdecimal():
                        users.setdefault(int(row[2]), printable(row[0]))  # as getpwuid(3): the first one
                self._users = changed, users
        except (OSError, ValueError):
            pass
        return self._users[1]


def since_boot(ticks: int) -> float:
    """The start time of a process in seconds of CLOCK_BOOTTIME."""
    return ticks / _TICKS


def exists(pid: int) -> bool:
    """Whether *pid* is a process. The kernel itself is asked: one that hides is in no listing of /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def parse_stat(data: bytes) -> Stat | None:
    """The text of /proc/PID/stat. The name may hold anything: the last bracket ends it."""
    head, bracket, tail = data.rpartition(b")")
    pid, opening, name = head.partition(b" (")
    fields = tail.split()
    if not (bracket and opening and len(fields) > 19):
        return None
    return Stat(
        int(pid), os.fsdecode(name), fields[0].decode(), int(fields[1]), int(fields[6]), int(fields[19])
    )


def parse_cgroup(text: str) -> str:
    """From /proc/PID/cgroup: the path in the unified hierarchy, or in systemd's own one; see cgroups(7)."""
    paths = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers] = path
    candidates = (paths.get(""), paths.get("name=systemd"), paths.get("pids"), paths.get("memory"))
    return next((path for path in candidates if path and path != "/"), "")


def unit_of(cgroup: str) -> str:
    """The systemd unit of a control group: the last part of the path that is a unit's name."""
    found = _UNIT.findall(cgroup)
    return printable(found[-1], 256) if found else ""


def container_of(cgroup: str) -> str:
    """The id, or the name, of the container that a control group belongs to."""
    found = _CONTAINER.search(cgroup)
    return printable((found[1] or found[2])[:64], 64) if found else ""
