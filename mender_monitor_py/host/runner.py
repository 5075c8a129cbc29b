"""
What users write runs outside the watcher: the client of the program ``mender_monitor_py/runner.py``.

``runner.sock`` where a service manager offers it; else the watcher starts a runner as its child.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mender_monitor_py.errors import UnknownError

log = logging.getLogger(__name__)

_PROGRAM = Path(__file__).parent.parent / "runner.py"
_MAX_MESSAGE = 4096
_GONE = "the runner of commands has ended"


class Process:
    """A process that the runner started."""

    def __init__(self, runner: Runner, number: int) -> None:
        self._runner = runner
        self._number = number
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        """Its exit status; negative: the signal that ended it. Raises UnknownError: the runner is lost."""
        return await asyncio.shield(self._exit)

    def end(self) -> None:
        """SIGTERM for its process group, and SIGKILL for what is left of it 2 s later."""
        if not self._exit.done():
            self._runner.send({"do": "end", "id": self._number})

    def ended(self, status: int) -> None:
        """For the runner: it has ended."""
        if not self._exit.done():
            self._exit.set_result(status)

    def lost(self) -> None:
        """For the runner: nobody knows."""
        if not self._exit.done():
            self._exit.set_exception(UnknownError(_GONE))
            self._exit.exception()  # retrieved, should nobody wait


@dataclass(frozen=True, slots=True)
class Completed:
    """
    How a command ended, and what it printed on stdout and stderr.

    *status* is negative for a signal, and None when its time ran out or it printed too much.
    """

    status: int | None
    output: bytes


class Runner:
    """
    A connection to the runner, for as long as somebody holds it.

    All methods raise UnknownError when there can be no runner.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._connection: socket.socket | None = None
        self._children: set[asyncio.Task[int]] = set()
        self._connecting = asyncio.Lock()
        self._processes: dict[int, Process] = {}
        self._last_number = 0
        self._holders = 0
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the runner between two commands: a check that runs some now and then holds it."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._close_if_idle()

    async def start(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """
        Start *argv* in a session of its own; a command that does not exist exits with 127.

        The descriptors become its own; the caller closes its copies. Without them stdin and stdout are
        /dev/null, and stderr is the runner's. *env* is added to the runner's environment.
        """
        given = {target: fd for target, fd in enumerate((stdin, stdout, stderr)) if fd is not None}
        with self.held():
            await self._connect()
            self._last_number += 1
            number = self._last_number
            process = self._processes[number] = Process(self, number)
            request = {
                "do": "start",
                "id": number,
                "argv": list(argv),
                "cwd": cwd,
                "env": dict(env or {}),
                "fds": list(given),
            }
            self.send(request, list(given.values()))
        return process

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109 - running out of time is an answer here
        limit: int = 64 * 1024,
        errors: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """
        Run *argv* to its end; *timeout* seconds, or *limit* bytes of output, end it before.

        Without *errors* the output is stdout alone, and stderr is the runner's. *env*: see start.
        """
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(writing, True)
        with closing(os.fdopen(reading, "rb", buffering=0)) as pipe:
            try:
                process = await self.start(argv, stdout=writing, stderr=writing if errors else None, env=env)
            finally:
                os.close(writing)
            output = bytearray()
            too_much = loop.create_future()

            def read() -> None:
                with suppress(BlockingIOError):
                    data = pipe.read(limit - len(output))
                    output.extend(data or b"")
                    if not data:
                        loop.remove_reader(reading)
                        if len(output) >= limit and not too_much.done():
                            too_much.set_result(None)

            loop.add_reader(reading, read)
            waiter = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait({waiter, too_much}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not waiter.done():
                    return Completed(None, bytes(output))
                read()
                return Completed(waiter.result(), bytes(output))
            finally:
                loop.remove_reader(reading)
                waiter.cancel()
                process.end()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """For processes: a message to the runner; nothing when it is gone."""
        if self._connection is None:
            return
        # The descriptors are the caller's, who may close them before the message is gone.
        self._outgoing.append((json.dumps(message).encode(), [os.dup(fd) for fd in fds]))
        self._flush()

    async def aclose(self) -> None:
        """End the runner, and with it all that runs."""
        self._disconnect()
        await asyncio.gather(*self._children)

    async def _connect(self) -> None:
        async with self._connecting:
            if self._connection is not None:
                return
            connection = _connected(self._socket_path) or await self._spawned()
            connection.setblocking(False)
            self._connection = connection
            asyncio.get_running_loop().add_reader(connection, self._receive)

    async def _spawned(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with closing(theirs):
            try:
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", str(_PROGRAM), stdin=theirs.fileno()
                )
            except OSError as error:
                ours.close()
                raise UnknownError(f"the runner of commands cannot be started: {error}") from error
        waiter = asyncio.create_task(child.wait())
        self._children.add(waiter)
        waiter.add_done_callback(self._children.discard)
        return ours

    def _flush(self) -> None:
        connection = self._connection
        if connection is None:
            return
        loop = asyncio.get_running_loop()
        while self._outgoing:
            data, fds = self._outgoing[0]
            try:
                socket.send_fds(connection, [data], fds)
            except BlockingIOError:
                loop.add_writer(connection, self._flush)
                return
            except OSError:
                self._disconnect()
                return
            self._outgoing.popleft()
            for fd in fds:
                os.close(fd)
        loop.remove_writer(connection)

    def _receive(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            log.warning("%s", _GONE)
            self._disconnect()
            return
        message = json.loads(data)
        process = self._processes.pop(message["id"], None)
        if process is not None:
            process.ended(message["exit"])
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not (self._holders or self._processes):
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(connection)
            loop.remove_writer(connection)
            connection.close()
        for _, fds in self._outgoing:
            for fd in fds:
                os.close(fd)
        self._outgoing.clear()
        lost, self._processes = self._processes, {}
        for process in lost.values():
            process.lost()


def _connected(path: Path) -> socket.socket | None:
    """A connection to the service manager's socket. None: there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        log.debug("%s: %s; starting a runner", path, error)
        return None
    return connection
