"""The runner of commands: a program of its own, and its client in the watcher."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import mender_monitor_py.runner
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.runner import Runner

SOON = 30.0


@asynccontextmanager
async def a_runner(tmp_path: Path) -> AsyncIterator[Runner]:
    runner = Runner(tmp_path / "runner.sock")
    try:
        yield runner
    finally:
        await asyncio.wait_for(runner.aclose(), SOON)


def test_a_command_gives_its_output_and_its_status(tmp_path: Path) -> None:
    """stdout, stderr and the exit status come back; a command that is not there is told like a shell does."""

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            done = await runner.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], timeout=SOON)
            assert (done.status, done.output) == (3, b"out\nerr\n")
            done = await runner.run(["/bin/sh", "-c", "kill -KILL $$"], timeout=SOON)
            assert done.status == -signal.SIGKILL
            done = await runner.run(["/nowhere/nothing"], timeout=SOON)
            assert done.status == 127
            assert b"/nowhere/nothing" in done.output

    asyncio.run(scenario())


def test_a_command_runs_in_a_clean_place_of_its_own(tmp_path: Path) -> None:
    """A session of its own, an empty stdin, default signals, none of our descriptors; its own folder."""
    script = (
        'cat; read -r stat </proc/self/stat; set -- $stat; echo "session $(ps -o sid= -p $$ | tr -d " ") $$";'
        'grep SigIgn /proc/$$/status; echo "$PWD $GIVEN"; ls /proc/$$/fd | tr "\\n" " "'
    )

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            process = await runner.start(
                ["/bin/sh", "-c", script], stdout=writing, cwd=str(tmp_path), env={"GIVEN": "yes"}
            )
            os.close(writing)
            assert await asyncio.wait_for(process.wait(), SOON) == 0
            with os.fdopen(reading) as pipe:
                session, ignored, place, fds = pipe.read().splitlines()
            assert session.split()[1] == session.split()[2]
            assert int(ignored.split()[1], 16) & (1 << signal.SIGPIPE - 1) == 0
            assert place == f"{tmp_path} yes"
            assert set(fds.split()) - {"3"} == {"0", "1", "2"}  # 3 may be the shell's pipe between ls and tr

    asyncio.run(scenario())


def test_a_flood_of_output_is_bounded(tmp_path: Path) -> None:
    """A command that prints without end is ended, and the start of its output is kept."""

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            done = await asyncio.wait_for(runner.run(["yes"], timeout=600, limit=10_000), SOON)
            assert done.status is None
            assert done.output == b"y\n" * 5000

    asyncio.run(scenario())


def test_a_command_that_hangs_is_ended_with_its_whole_group(tmp_path: Path) -> None:
    """Its children end too, also those that ignore SIGTERM."""
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 1000 & echo $$ $! >{pids}; while :; do sleep 1000; done"

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            process = await runner.start(["/bin/bash", "-c", script])
            await until(pids.exists)
            await until(lambda: len(pids.read_text().split()) == 2)
            process.end()
            assert await asyncio.wait_for(process.wait(), SOON) == -signal.SIGKILL
            for pid in pids.read_text().split():
                await until(lambda pid=pid: not is_running(pid))

    asyncio.run(scenario())


def test_what_a_command_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    """A command that is started again and again must not leave more and more behind."""

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            done = await runner.run(["/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], timeout=SOON)
            assert done.status == 0
            await until(lambda: not is_running(done.output.decode().strip()))

    asyncio.run(scenario())


def test_many_commands_run_at_once(tmp_path: Path) -> None:
    """More requests than a socket holds wait for their turn; each answer goes to its own command."""

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            commands = (runner.run(["/bin/sh", "-c", f"exit {n}"], timeout=SOON) for n in range(100))
            assert [done.status for done in await asyncio.gather(*commands)] == list(range(100))

    asyncio.run(scenario())


def test_the_runner_is_there_only_while_it_is_needed(tmp_path: Path) -> None:
    """It ends after the last command, unless a check holds it."""

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            parent = ["/bin/sh", "-c", "echo $PPID"]
            with runner.held():
                first = (await runner.run(parent, timeout=SOON)).output.decode().strip()
                assert (await runner.run(parent, timeout=SOON)).output.decode().strip() == first
                assert is_running(first)
            await until(lambda: not is_running(first))
            assert (await runner.run(parent, timeout=SOON)).output.decode().strip() != first

    asyncio.run(scenario())


def test_a_lost_runner_is_told_and_replaced(tmp_path: Path) -> None:
    """When the runner is killed, its commands are unknown, and the next one has a new runner."""

    async def scenario() -> None:
        async with a_runner(tmp_path) as runner:
            with runner.held():
                process = await runner.start(["sleep", "1000"])
                done = await runner.run(
                    ["/bin/sh", "-c", "echo $PPID; ps -o pid= --ppid $PPID"], timeout=SOON
                )
                ours, *children = done.output.decode().split()
                os.kill(int(ours), signal.SIGKILL)
                with pytest.raises(UnknownError):
                    await asyncio.wait_for(process.wait(), SOON)
                assert (await runner.run(["true"], timeout=SOON)).status == 0
                for child in children:
                    with suppress(ProcessLookupError):  # as its parent was killed, nobody has told it
                        os.kill(int(child), signal.SIGKILL)

    asyncio.run(scenario())


def test_the_service_managers_socket_is_used_where_there_is_one(tmp_path: Path) -> None:
    """With runner.sock the watcher starts nothing itself: what it runs is a child of the socket's runner."""
    path = tmp_path / "runner.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(1)

        async def scenario() -> None:
            async with a_runner(tmp_path) as runner:
                with runner.held():
                    asking = asyncio.create_task(runner.run(["/bin/sh", "-c", "echo $PPID"], timeout=SOON))
                    await asyncio.sleep(0)
                    connection, _ = listener.accept()
                    with connection, started(connection) as program:
                        connection.close()
                        done = await asking
                        assert int(done.output) == program.pid
                        assert runner._children == set()
                        await runner.aclose()

        asyncio.run(scenario())


def test_all_ends_when_the_watcher_is_gone(tmp_path: Path) -> None:
    """The end of the connection ends every command and then the runner itself."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with ours, theirs, started(theirs) as program:
        theirs.close()
        script = "sleep 1000 & echo $! $$; wait"
        request = f'{{"do":"start","id":1,"argv":["/bin/sh","-c","{script}"],"cwd":"/","env":{{}},"fds":[1]}}'
        socket.send_fds(ours, [request.encode()], [writing])
        os.close(writing)
        with os.fdopen(reading) as pipe:
            pids = pipe.readline().split()
            ends = [os.pidfd_open(int(pid)) for pid in pids]
            assert select.select(ends, [], [], 0)[0] == []
            ours.close()
            assert pipe.read() == ""  # the last one that could write to it has closed it
        assert program.wait(SOON) == 0
        for end in ends:  # the kernel closes what a process has open a moment before it has ended
            assert select.select([end], [], [], SOON)[0] == [end]
            os.close(end)


class started:
    """The runner as the service manager starts it: the connection is its stdin."""

    def __init__(self, connection: socket.socket) -> None:
        program = [sys.executable, "-I", "-S", mender_monitor_py.runner.__file__]
        self._process = subprocess.Popen(program, stdin=connection.fileno())

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.wait(SOON)


async def until(condition: object) -> None:
    """Wait until *condition*() is true; for another process's doing, which no event announces."""
    assert callable(condition)
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.02)


def is_running(pid: str) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
