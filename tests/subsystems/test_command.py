"""Commands whose output is a log, run by the real runner."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mender_monitor_py.host import command as module
from mender_monitor_py.host.command import CommandStream, Output
from mender_monitor_py.host.runner import Runner
from mender_monitor_py.loglines import LINE

PATIENCE = 30


def run(command: str, work: Callable[[CommandStream], Awaitable[None]]) -> None:
    async def main() -> None:
        runner = Runner(Path("/nonexistent/runner.sock"))
        stream = CommandStream(runner, command)
        try:
            with runner.held():
                await asyncio.wait_for(work(stream), PATIENCE)
        finally:
            stream.close()
            await runner.aclose()

    asyncio.run(main())


async def output(stream: CommandStream) -> Output:
    while (found := await stream.next()) is None:
        pass
    return found


async def lines(stream: CommandStream, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        found += (await output(stream)).data.removesuffix(b"\n").split(b"\n")
    return found


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.01, 0.05))


def test_lines_as_they_come() -> None:
    """A line in two writes is one line; bash is the shell."""

    async def work(stream: CommandStream) -> None:
        assert await lines(stream, 2) == [b"one line", b"two"]

    run("printf 'one '; sleep 0.05; printf 'line\\ntwo\\n'; [[ -n $BASH ]] && sleep 60", work)


def test_it_is_started_again(tmp_path: Path) -> None:
    """After its end it runs again, and a last line without newline counts."""

    async def work(stream: CommandStream) -> None:
        assert await lines(stream, 3) == [b"1", b"11", b"111"]

    run(f"printf 1 >>{tmp_path}/n; cat {tmp_path}/n", work)


def test_a_failure_is_the_problem_until_there_is_output(tmp_path: Path) -> None:
    """The status is told; the next run that prints something ends it."""

    async def work(stream: CommandStream) -> None:
        assert await stream.next() is None
        assert stream.problem == "the command has ended with status 3"
        (tmp_path / "go").touch()
        assert (await output(stream)).data == b"fine\n"
        assert stream.problem == ""

    run(f"[ -e {tmp_path}/go ] || exit 3; echo fine; sleep 60", work)


def test_all_that_it_started_ends(tmp_path: Path) -> None:
    """Children, also such as ignore SIGTERM, are gone after it is closed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"exec 3>{fifo}; trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo up; wait"

    async def main() -> None:
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        runner = Runner(Path("/nonexistent/runner.sock"))
        stream = CommandStream(runner, script)
        assert await lines(stream, 1) == [b"up"]
        stream.close()
        ended = asyncio.Event()

        def read() -> None:
            if not os.read(reading, 1):  # nobody has the other end any more
                ended.set()

        asyncio.get_running_loop().add_reader(reading, read)
        await asyncio.wait_for(ended.wait(), PATIENCE)
        asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        await runner.aclose()

    asyncio.run(main())


def test_it_waits_while_nobody_reads() -> None:
    """A flood is not taken in faster than it is judged: memory is bounded."""

    async def work(stream: CommandStream) -> None:
        assert (await output(stream)).data.startswith(b"y\ny\n")
        await asyncio.sleep(0.2)
        assert len(stream._unread) <= LINE
        for _ in range(100):
            assert len((await output(stream)).data) <= 2 * LINE

    run("yes", work)


def test_a_long_line_is_cut() -> None:
    """64 KiB of it count, and the next line is whole."""

    async def work(stream: CommandStream) -> None:
        cut = await output(stream)
        assert cut.cut
        assert cut.data == b"x" * LINE
        assert await lines(stream, 1) == [b"next"]

    run(f"head -c {3 * LINE} /dev/zero | tr '\\0' x; echo; echo next; sleep 60", work)


def test_context(tmp_path: Path) -> None:
    """Lines before may have come earlier; lines after are those that were read with it."""

    async def work(stream: CommandStream) -> None:
        first = await output(stream)
        assert first.data == b"1\n2\n"
        (tmp_path / "go").touch()
        second = await output(stream)
        begin = second.data.find(b"match")
        assert second.before(begin, 2) == [b"2", b"3"]
        assert second.before(begin, 30) == [b"1", b"2", b"3"]
        assert second.after(begin + 5, 30) == [b"4"]
        assert second.before(begin, 0) == second.after(begin + 5, 0) == []

    # one write each: bash's own printf makes one a line
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    run(f"env printf '1\\n2\\n'; {wait}; env printf '3\\nmatch\\n4\\n5'; sleep 60", work)


def test_stderr_is_logged_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    """A few lines a minute, escaped; the flood does not hold the command up."""

    async def work(stream: CommandStream) -> None:
        assert await lines(stream, 1) == [b"done"]

    with caplog.at_level(logging.WARNING):
        run("printf 'bad \\033[31m\\n' >&2; yes | head -c 1000000 >&2; echo done; sleep 60", work)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].endswith(r": bad \x1b[31m")
    assert len(messages) == 11
    assert messages[-1].endswith("left out for a minute")


def test_the_journal_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its end journalctl is asked for what came since, and lines shown again are passed over."""
    program = tmp_path / "journalctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/arguments\n'
        f'[ -e {tmp_path}/second ] || {{ touch {tmp_path}/second; printf "a\\nb\\n"; exit 1; }}\n'
        'printf "b\\nc\\n"; exec sleep 60\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def work(stream: CommandStream) -> None:
        assert await lines(stream, 3) == [b"a", b"b", b"c"]
        moment = json.loads(stream.memory)["read"]
        first, second = (tmp_path / "arguments").read_text().splitlines()
        assert first == "-f -u cron"
        assert second.startswith("-f -u cron --since=@")
        assert second.endswith(" --lines=all")
        runner = Runner(Path("/nonexistent/runner.sock"))
        for memory, known in (
            (stream.memory, True),
            ("damaged", False),
            ('{"command": "x", "read": 1}', False),
        ):
            again = CommandStream(runner, "journalctl -f -u cron", memory)
            assert json.loads(again.memory)["read"] == (moment if known else 0)

    run("journalctl -f -u cron", work)
