"""
Commands whose output is a log: started, kept running, and ended with all that they started.

The runner runs them, outside the watcher; it ends them when the watcher ends, however it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.clock import FLOOR
from mender_monitor_py.host.runner import Process, Runner
from mender_monitor_py.journalcommand import follows_the_journal, since
from mender_monitor_py.loglines import LINE, shown, too_long

log = logging.getLogger(__name__)

_READ = 65_536  # bytes that a pipe holds (pipe(7))
_EARLIER = 65_536  # bytes of output that are kept for context
_BACKOFF_S = (1.0, 60.0)
_HEALTHY_S = 60.0
_EXIT_S = 1.0  # from the end of its output to that of the command
_ERRORS = 10  # lines of stderr that are logged in _ERRORS_S
_ERRORS_S = 60.0
_ERROR_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Output:
    """Whole lines of a command's output, and what came *earlier*. See logfile.Block."""

    data: bytes
    earlier: bytes
    cut: bool = False

    def before(self, begin: int, count: int) -> list[bytes]:
        """Up to *count* lines before the one that begins at *begin*."""
        return (self.earlier + self.data[:begin]).split(b"\n")[:-1][-count:] if count else []

    def after(self, end: int, count: int) -> list[bytes]:
        """Up to *count* lines after the one that ends at *end*: those that have been read."""
        return self.data[end + 1 :].split(b"\n")[:-1][:count]

    def number(self, begin: int) -> int | None:
        """The output of a command is not counted."""
        return None


class CommandStream:
    """The lines of a command's stdout. While nobody asks for more nothing is read, and the command waits."""

    def __init__(self, runner: Runner, command: str, memory: str = "") -> None:
        """*memory* is what :attr:`memory` was in an earlier run of the daemon."""
        self._runner = runner
        self._command = command
        self._is_journal = follows_the_journal(command)
        self._read_at = _moment(memory, command) if self._is_journal else 0.0
        self._repeated: frozenset[bytes] = frozenset()
        self._process: Process | None = None
        self._stdout = -1
        self._stderr: _Errors | None = None
        self._started = 0.0
        self._wait = 0.0
        self._unread = b""
        self._earlier = b""
        self._skipping = False
        self._told = ""
        self.problem = ""  # why there is no output; empty when there may be some

    @property
    def memory(self) -> str:
        """When the journal was read last; another command has nothing to go on from."""
        return json.dumps({"command": self._command, "read": self._read_at}) if self._is_journal else ""

    async def next(self) -> Output | None:
        """The next lines, once there are some. None: :attr:`problem` has changed."""
        await asyncio.sleep(0)  # the others' turn
        while True:
            output = self._take()
            if output is not None:
                kept = self._earlier + output.data + (b"\n" if output.cut else b"")
                self._earlier = kept[-_EARLIER:]
                return output
            if self.problem != self._told:
                self._told = self.problem
                return None
            if self._process is None:
                await self._start()
                continue
            data = await self._read()
            if data:
                self.problem = ""
                self._read_at = time.time()
                self._unread += data
            else:
                await self._ended()

    def close(self) -> None:
        """End the command and all that it started."""
        if self._stdout >= 0:
            os.close(self._stdout)
            self._stdout = -1
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None
        if self._process is not None:
            self._process.end()
            self._process = None

    def _take(self) -> Output | None:
        """The lines that are whole, or the begin of one that is too long."""
        if self._skipping:
            end = self._unread.find(b"\n") + 1
            self._unread = self._unread[end:] if end else b""
            self._skipping = not end
        if self._repeated:
            self._pass_over()
        data = self._unread
        end = data.rfind(b"\n") + 1
        whole = too_long(data, end)
        if whole:
            self._unread = data[whole:]
            return Output(data[:whole], self._earlier)
        if len(data) <= LINE:
            return None
        end = data.find(b"\n", LINE) + 1
        self._unread = data[end:] if end else b""
        self._skipping = not end
        return Output(data[:LINE], self._earlier, cut=True)

    def _pass_over(self) -> None:
        """The journal is shown again from a moment before its last line on."""
        while end := self._unread.find(b"\n") + 1:
            if self._unread[:end] not in self._repeated:
                self._repeated = frozenset()
                return
            self._unread = self._unread[end:]

    def _command_line(self) -> str:
        """The command, from where it was. A clock that was never set, or went back, tells no moment."""
        if not (self._is_journal and FLOOR <= self._read_at <= time.time()):
            return self._command
        self._repeated = frozenset(self._earlier.splitlines(keepends=True))
        return since(self._command, self._read_at)

    async def _start(self) -> None:
        await asyncio.sleep(self._wait)
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        self._stdout, stdout = _pipe()
        self._stderr = errors = _Errors(self._command)
        try:
            self._process = await self._runner.start(
                [_shell(), "-c", self._command_line()], stdout=stdout, stderr=errors.writing
            )
        except UnknownError as error:
            self.problem = str(error)
            self._back_off()
            self.close()
        finally:
            os.close(stdout)
            errors.started()

    async def _read(self) -> bytes:
        """Some output. Empty: there will be no more."""
        while True:
            try:
                return os.read(self._stdout, _READ)
            except BlockingIOError:
                await _readable(self._stdout)

    async def _ended(self) -> None:
        """The command has closed its output; what is left of it ends, and its last line counts."""
        assert self._process is not None
        try:
            try:
                status = await asyncio.wait_for(self._process.wait(), _EXIT_S)
            except TimeoutError:
                self._process.end()
                status = await self._process.wait()
            self.problem = f"the command has ended with status {status}" if status else ""
        except UnknownError as error:
            self.problem = str(error)
        self.close()
        if self._unread:
            self._unread += b"\n"
        self._skipping = False
        self._back_off()
        log.debug("%s: ended; it is started again in %d s", self._command, self._wait)

    def _back_off(self) -> None:
        if asyncio.get_running_loop().time() - self._started >= _HEALTHY_S:
            self._wait = 0.0
        self._wait = min(max(2 * self._wait, _BACKOFF_S[0]), _BACKOFF_S[1])


class _Errors:
    """The stderr of a command, which goes to the log, some lines a minute."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._reading, self.writing = _pipe()
        self._left = _ERRORS
        self._since = self._loop.time()
        self._loop.add_reader(self._reading, self._read)

    def started(self) -> None:
        """The command has the other end now."""
        os.close(self.writing)

    def close(self) -> None:
        self._loop.remove_reader(self._reading)
        os.close(self._reading)

    def _read(self) -> None:
        data = os.read(self._reading, _READ)
        if not data:
            self._loop.remove_reader(self._reading)
            return
        now = self._loop.time()
        if now - self._since >= _ERRORS_S:
            self._since, self._left = now, _ERRORS
        for line in data.split(b"\n"):
            if line and self._left > 0:
                self._left -= 1
                log.warning("%s: %s", self._command, shown(line)[:_ERROR_LENGTH])
                if not self._left:
                    log.warning("%s: further messages are left out for a minute", self._command)


def _pipe() -> tuple[int, int]:
    """The end for us, which never blocks, and the one for the command."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    return reading, writing


def _shell() -> str:
    """bash, which runs the commands of the original add-on, or what there is in its place."""
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


def _moment(memory: str, command: str) -> float:
    """When *command* was read last, by its memory. 0: not known, or of another command."""
    try:
        stored = json.loads(memory or "{}")
        return float(stored["read"]) if stored.get("command") == command else 0.0
    except (ValueError, TypeError, KeyError, AttributeError):
        return 0.0


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
