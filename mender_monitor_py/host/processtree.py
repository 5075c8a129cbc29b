"""All that a process of ours started, however it tried to leave: counted, measured, and ended."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OOM_FIRST = "1000"
_STUCK_S = 5.0  # a process that hangs in the kernel does not end before that does

_libc = ctypes.CDLL(None, use_errno=True)


def take_orphans() -> None:
    """From now on a descendant whose parent has ended is our child: prctl(2), PR_SET_CHILD_SUBREAPER."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def become_child() -> None:
    """For a child before it executes: the signals are as usual, and it ends with its parent."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Python ignores these two; a process inherits that over exec (signal(7)).
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)


def limit(memory: int) -> None:
    """
    This process, and all that it starts from now on, runs when nothing else wants to, in *memory* bytes each.

    SCHED_IDLE brings the idle class of I/O with it (ioprio_set(2)). RLIMIT_DATA counts what a process may
    write to; it leaves files that are mapped alone, and addresses that are only reserved, as Go does it. When
    the device has no memory left, these processes are the first to end.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        with suppress(OSError):
            os.nice(19)
    for kind, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CORE, 0)):
        with suppress(OSError, ValueError):  # there is a lower one already
            resource.setrlimit(kind, (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)


class ProcessTree:
    """The descendants of *root*, which takes its orphans."""

    def __init__(self, root: int) -> None:
        self._root = root

    def size(self) -> tuple[int, int]:
        """How many there are, and their memory in bytes that is no file's."""
        pids = self._pids()
        return len(pids), sum(map(_memory, pids))

    def reap(self, child: int) -> int | None:
        """Take the exit statuses of those that have ended; that of *child*, negative for a signal."""
        found = None
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == child:
                    found = os.waitstatus_to_exitcode(status)
        return found

    def end(self, grace: float) -> None:
        """End all of them: SIGTERM, and *grace* seconds later SIGKILL; without a grace SIGKILL at once."""
        if not self._pids():
            return
        if grace:
            self._signal(signal.SIGTERM)
        end = time.monotonic() + grace
        while self._alive() and time.monotonic() < end:
            time.sleep(0.01)
        # What is stopped starts no more of them while the others are looked for.
        stopped: set[int] = set()
        while new := set(self._alive()) - stopped:
            self._signal(signal.SIGSTOP)
            stopped |= new
        end = time.monotonic() + _STUCK_S
        while self._alive() and time.monotonic() < end:
            self._signal(signal.SIGKILL)
            time.sleep(0.01)

    def _alive(self) -> list[int]:
        self.reap(0)
        return self._pids()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _pids(self) -> list[int]:
        found: list[int] = []
        waiting = [self._root]
        while waiting:
            children = _children(waiting.pop())
            found += children
            waiting += children
        return found


def _children(pid: int) -> list[int]:
    """The children of all threads of *pid*; see proc(5)."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names are all that is wanted
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return []
    if not found and not Path("/proc/self/task", str(os.getpid()), "children").exists():
        return _children_by_parent(pid)  # a kernel without CONFIG_PROC_CHILDREN
    return found


def _children_by_parent(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):
                # The name is in brackets and may hold any of them.
                if int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry))
    return found


def _memory(pid: int) -> int:
    """Bytes of *pid* that are its own, of proc(5); the kernel can drop those of mapped files."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total
