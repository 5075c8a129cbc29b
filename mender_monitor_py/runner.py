"""
The runner: runs what users write, outside the watcher's sandbox. A program of this one file.

Its standard input is a Unix socket of type SOCK_SEQPACKET; it lives as long as the connection, and all that
it runs ends with it. One message is one JSON object:

    watcher: {"do": "start", "id": 1, "argv": [...], "cwd": "/", "env": {...}, "fds": [0, 1, 2]}
             with the descriptors that become those of the process (SCM_RIGHTS, unix(7)); without them its
             stdin and stdout are /dev/null, and its stderr is the runner's
    watcher: {"do": "end", "id": 1}       SIGTERM for its process group, SIGKILL after GRACE
    runner:  {"id": 1, "exit": 0}         negative: the signal that ended it

It is started for a single purpose, maybe often: it imports nothing of the package, and little else.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

GRACE = 2.0  # seconds from SIGTERM to SIGKILL
MAX_MESSAGE = 256 * 1024

# What systemd tells this process is not for those that it starts.
_PRIVATE = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Runner:
    """Starts processes on request, each in a session of its own, and reports their ends."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._running: dict[int, int] = {}  # the watcher's number for a process, its pid
        self._kill_at: dict[int, float] = {}
        self._environment = {name: value for name, value in os.environ.items() if name not in _PRIVATE}

    def serve(self) -> None:
        """Obey until the watcher is gone, then end what still runs."""
        children = _wakes_on_sigchld()
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(children, select.POLLIN)
        connected = True
        while connected or self._running:
            for fd, _ in poll.poll(self._patience()):
                if fd == children:
                    os.read(children, 4096)
                elif not self._obey():
                    connected = False
                    poll.unregister(self._connection)
                    for number in list(self._running):
                        self._end(number)
            self._reap()
            self._kill_overdue()

    def _obey(self) -> bool:
        """Do what the next message says; False: there will be none."""
        try:
            data, fds, _, _ = socket.recv_fds(self._connection, MAX_MESSAGE, 8)
        except ConnectionError:
            return False
        for fd in fds:
            os.set_inheritable(fd, False)  # recv_fds of Python 3.11 makes nothing of MSG_CMSG_CLOEXEC
        if not data:
            return False
        message = json.loads(data)
        if message["do"] == "start":
            self._running[message["id"]] = self._start(message, fds)
        else:
            self._end(message["id"])
        for fd in fds:
            os.close(fd)
        return True

    def _start(self, message: dict[str, Any], fds: list[int]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                self._become(message, dict(zip(message["fds"], fds, strict=True)))
            except (OSError, ValueError) as error:
                os.write(2, f"{message['argv'][0]}: {error}\n".encode(errors="backslashreplace"))
            finally:
                os._exit(127)
        return pid

    def _become(self, message: dict[str, Any], fds: dict[int, int]) -> None:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for target, default in ((0, nothing), (1, nothing), (2, 2)):
            os.dup2(fds.get(target, default), target)
        # Python ignores these two; a process inherits that over exec (signal(7)).
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored, signal.SIG_DFL)
        os.chdir(message["cwd"])
        argv = message["argv"]
        os.execvpe(argv[0], argv, self._environment | message["env"])  # noqa: S606

    def _end(self, number: int) -> None:
        if number in self._running:
            _signal(self._running[number], signal.SIGTERM)
            self._kill_at[number] = time.monotonic() + GRACE

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for number in [number for number, at in self._kill_at.items() if at <= now]:
            del self._kill_at[number]
            _signal(self._running[number], signal.SIGKILL)

    def _patience(self) -> float | None:
        """Milliseconds until something is overdue."""
        if not self._kill_at:
            return None
        return max(min(self._kill_at.values()) - time.monotonic(), 0.0) * 1000 + 1

    def _reap(self) -> None:
        for number, pid in list(self._running.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            # What it left behind ends too. The group's number is free for another only after waitpid.
            _signal(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            del self._running[number]
            self._kill_at.pop(number, None)
            self._report({"id": number, "exit": os.waitstatus_to_exitcode(status)})

    def _report(self, message: dict[str, int]) -> None:
        with suppress(ConnectionError):  # the next receive tells that the watcher is gone
            self._connection.send(json.dumps(message).encode())


def _signal(pid: int, number: signal.Signals) -> None:
    """To the process group of *pid*, which is a child of ours."""
    with suppress(PermissionError):  # not root, and a set-uid program in it
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # it has not come as far as its setsid
            os.kill(pid, number)


def _wakes_on_sigchld() -> int:
    """A descriptor that can be read after a child has ended."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writing)
    return reading


def main() -> None:
    """The program."""
    connection = socket.socket(fileno=os.dup(0))
    connection.setblocking(True)
    Runner(connection).serve()
    sys.exit(0)


if __name__ == "__main__":
    main()
