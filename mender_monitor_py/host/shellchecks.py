"""
Runs the checks of the shell subsystems through one long-lived bash, which forks a subshell a run.

The other end, and what the two say to each other, is in ``runner.sh`` of the shell library.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mender_monitor_py.alertcall import MAX_SIZE
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.runner import Process, Runner

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024  # bytes of output that are read at once, which is also what a pipe holds
_PAUSE = 1.0  # seconds between two reads of one check's output: who writes more waits
_GRACE = 1.2  # seconds for the bash to end; it gives its runs half a second
_FAILED_FOR = 15.0  # seconds that a refused alert is told; its sender looks every hundredth
_CALL = re.compile(rb"(?P<what>ran|slow) (?P<number>\d+)|alert (?P<call>(?P<caller>\d+)\.[\d-]+)")


@dataclass(frozen=True, slots=True)
class Job:
    """A check: *script* is run for its *file*, every *interval* seconds, for *limit* at most."""

    subsystem: str
    file: Path
    script: Path
    interval: float
    limit: float


class Listener(Protocol):
    """What a running job tells."""

    def printed(self, output: bytes) -> None:
        """A run wrote this to stdout or stderr: whole lines mostly, at most 64 KiB a second."""

    async def alerted(self, call: bytes) -> bool:
        """A run called monitor_send_alert, with these arguments; whether the alert was stored."""

    def ran(self) -> None:
        """A run ended within its time: told once, and again after :meth:`overdue`."""

    def overdue(self) -> None:
        """A run took too long, and was ended: told once, and again after :meth:`ran`."""


class ShellChecks:
    """The bash that runs the jobs; it is there as long as there is one."""

    def __init__(self, share: Path, run: Path, runner: Runner) -> None:
        self._share = share
        self._run = run
        self._runner = runner
        self._opening = asyncio.Lock()
        self._session: _Session | None = None
        self._lives = 0

    async def run(self, job: Job, listener: Listener) -> None:
        """Run *job* until cancelled. Raises UnknownError when that is not possible (any more)."""
        async with self._opening:
            if self._session is None or self._session.over:
                self._session = await self._open()
            session = self._session
            try:
                number = session.add(job, listener)
            except OSError as error:
                await self._close_if_idle(session)
                raise UnknownError(f"shell subsystems cannot run: {error}") from error
        try:
            await session.ended()
        finally:
            session.remove(number)
            await self._close_if_idle(session)

    async def _close_if_idle(self, session: _Session) -> None:
        if session.busy:
            return
        if self._session is session:
            self._session = None
        await session.aclose()

    async def _open(self) -> _Session:
        """Start the bash, with a new folder for what the two exchange."""
        try:
            self._run.mkdir(parents=True, exist_ok=True)
            if not self._lives:  # what a daemon that was killed has left
                for left in self._run.glob("shell-*"):
                    _remove(left)
            self._lives += 1
            folder = self._run / f"shell-{self._lives}"
            folder.mkdir(mode=0o700)
            for name in ("calls", "never"):
                os.mkfifo(folder / name, 0o600)
        except OSError as error:
            raise UnknownError(f"shell subsystems cannot run: {error}") from error
        reading, writing = os.pipe2(os.O_CLOEXEC)
        argv = ["/bin/bash", str(self._share / "lib/runner.sh"), str(folder)]
        try:
            process = await self._runner.start(argv, stdin=reading, cwd=str(self._share))
        except BaseException:  # cancelled too
            os.close(writing)
            _remove(folder)
            raise
        finally:
            os.close(reading)
        return _Session(process, writing, folder)


class _Session:
    """One life of the bash."""

    def __init__(self, process: Process, commands: int, folder: Path) -> None:
        self._process = process
        self._exit = asyncio.ensure_future(process.wait())
        self._exit.add_done_callback(_seen)
        self._folder = folder
        self._commands = _Writer(commands)
        self._listeners: dict[int, Listener] = {}
        self._outputs: dict[int, _Reader] = {}
        self._calls = _Reader(folder / "calls", self._called)
        self._partial_call = b""
        self._answers: set[asyncio.Task[None]] = set()
        self._last_number = 0

    @property
    def busy(self) -> bool:
        return bool(self._listeners)

    @property
    def over(self) -> bool:
        return self._exit.done()

    async def ended(self) -> None:
        """Raises UnknownError once the bash is no more."""
        status = await asyncio.shield(self._exit)
        raise UnknownError(f"the bash that runs the shell subsystems ended with status {status}")

    def add(self, job: Job, listener: Listener) -> int:
        """Have *job* run from now on; the number that it is removed by."""
        self._last_number += 1
        number = self._last_number
        output = self._folder / f"{number}.out"
        os.mkfifo(output, 0o600)
        self._listeners[number] = listener
        self._outputs[number] = _Reader(output, listener.printed, pause=_PAUSE)
        self._command("interval", f"{job.interval:.2f}")
        self._command("add", str(number), f"{job.limit:.2f}", job.subsystem, str(job.file), str(job.script))
        return number

    def remove(self, number: int) -> None:
        """End the job: the run that is going on has half a second left."""
        del self._listeners[number]
        self._outputs.pop(number).close()
        self._command("remove", str(number))

    async def aclose(self) -> None:
        """End the bash, after the runs that are going on."""
        self._commands.close()
        try:
            await asyncio.wait({self._exit}, timeout=_GRACE)
        finally:
            self._process.end()
            self._exit.cancel()
            self._calls.close()
            for answer in self._answers:
                answer.cancel()
            _remove(self._folder)

    def _command(self, *words: str) -> None:
        self._commands.write(b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words))

    def _called(self, data: bytes) -> None:
        *lines, self._partial_call = (self._partial_call + data).split(b"\n")
        for line in lines:
            match = _CALL.fullmatch(line)
            listener = self._listeners.get(int(match["number"] or match["caller"])) if match else None
            if match is None or listener is None:
                continue  # of a check that was just removed
            if match["call"]:
                answer = asyncio.create_task(self._answer(listener, self._folder / match["call"].decode()))
                self._answers.add(answer)
                answer.add_done_callback(self._answers.discard)
            elif match["what"] == b"ran":
                listener.ran()
            else:
                listener.overdue()

    async def _answer(self, listener: Listener, call: Path) -> None:
        try:
            if not await listener.alerted(_content(call)):
                await self._refuse(call.with_name(f"{call.name}.no"))
            call.unlink()  # noqa: ASYNC240 - it is in memory
        except OSError as error:
            log.warning("an alert of a shell subsystem: %s", error)

    async def _refuse(self, refusal: Path) -> None:
        os.close(os.open(refusal, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        await asyncio.sleep(_FAILED_FOR)
        refusal.unlink()  # noqa: ASYNC240 - it is in memory


def _seen(exit_status: asyncio.Future[int]) -> None:
    """Not to have known how the bash ended is no error of its own, should nobody ask."""
    if not exit_status.cancelled():
        exit_status.exception()


def _remove(folder: Path) -> None:
    """Delete a session's folder, in which there are no others."""
    with suppress(OSError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _content(call: Path) -> bytes:
    with call.open("rb") as file:
        return file.read(MAX_SIZE + 1)


class _Reader:
    """
    Hands over what is written to a FIFO, 64 KiB a *pause* at most.

    It is open for writing too, so that it never ends.
    """

    def __init__(self, path: Path, handler: Callable[[bytes], None], pause: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._path = path
        self._handler = handler
        self._pause = pause
        self._pausing: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Read no more, and remove the FIFO; idempotent."""
        if self._fd < 0:
            return
        if self._pausing is not None:
            self._pausing.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._path.unlink(missing_ok=True)

    def _resume(self) -> None:
        self._pausing = None
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._fd, _CHUNK)
            if self._pause:
                self._loop.remove_reader(self._fd)
                self._pausing = self._loop.call_later(self._pause, self._resume)
            self._handler(data)


class _Writer:
    """A pipe that takes what it can, and the rest later."""

    def __init__(self, fd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._rest = b""
        os.set_blocking(fd, False)

    def write(self, data: bytes) -> None:
        """Nothing, when nobody reads any more."""
        self._rest += data
        self._flush()

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _flush(self) -> None:
        if self._fd < 0:
            return
        try:
            self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._rest = b""
        if self._rest:
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._loop.remove_writer(self._fd)
