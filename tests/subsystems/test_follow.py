"""Followed log files: real files, really rotated while they are written."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py.host import followed
from mender_monitor_py.host.follow import Files
from mender_monitor_py.host.inotify import Inotify
from mender_monitor_py.host.logfile import Block
from mender_monitor_py.host.stream import Stream
from mender_monitor_py.loglines import LINE

PATIENCE = 30


class Reader:
    """Collects the lines of a followed file, as a check would get them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self.blocks: list[Block] = []
        self.problems: list[str] = []
        self.memory = ""
        self._more = asyncio.Event()
        self.start()

    def start(self) -> None:
        self._inotify = Inotify()
        self._files = Files(self._inotify)
        self._stream = self._files.follow(self.path, self.memory)
        self._task = asyncio.create_task(self._collect(self._stream))

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.memory = self._stream.memory
        await self._files.aclose()
        self._inotify.close()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def until_lines(self, *lines: str) -> None:
        wanted = [line.encode() for line in lines]
        with suppress(TimeoutError):
            await self.until(lambda: len(self.lines) >= len(wanted))
        assert self.lines == wanted

    async def _collect(self, stream: Stream) -> None:
        while True:
            block = await stream.next()
            self._more.set()
            if block is None:
                self.problems.append(stream.problem)
                continue
            self.blocks.append(block)
            if block.data:
                self.lines += block.data.removesuffix(b"\n").split(b"\n")


def read(path: Path, work: Callable[[Reader], Awaitable[None]]) -> None:
    async def main() -> None:
        reader = Reader(path)
        try:
            await work(reader)
        finally:
            await reader.stop()

    asyncio.run(main())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_what_was_there_and_what_comes(log: Path) -> None:
    """A new check reads the file from its beginning, then each line as it is written."""
    log.write_text("one\ntwo\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("one", "two")
        append(log, "three\n")
        await reader.until_lines("one", "two", "three")

    read(log, work)


def test_a_line_over_several_writes_is_one_line(log: Path) -> None:
    """Nothing is given before its newline is there."""

    async def work(reader: Reader) -> None:
        with log.open("wb", buffering=0) as file:
            for piece in (b"a", b"b" * 5000, b"c\nd", b"e\n"):
                file.write(piece)
                for _ in range(20):
                    await asyncio.sleep(0)
        await reader.until_lines("a" + "b" * 5000 + "c", "de")

    read(log, work)


def test_a_file_and_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    """It is waited for, with every folder on the way."""
    path = tmp_path / "deep" / "deeper" / "app.log"

    async def work(reader: Reader) -> None:
        path.parent.parent.mkdir()
        await asyncio.sleep(0.01)
        path.parent.mkdir()
        path.write_text("first\n")
        await reader.until_lines("first")
        assert reader.problems == []

    read(path, work)


def test_rotation_by_rename_reads_the_old_file_to_its_end(log: Path) -> None:
    """The writer goes on in the renamed file for a while, and nothing of it is lost."""

    async def work(reader: Reader) -> None:
        with log.open("w", buffering=1) as old:
            old.write("1\n")
            await reader.until_lines("1")
            log.rename(log.with_name("app.log.1"))
            log.write_text("2\n")
            await reader.until_lines("1", "2")
            old.write("late\n")
            await reader.until_lines("1", "2", "late")
        append(log, "3\n")
        await reader.until_lines("1", "2", "late", "3")

    read(log, work)


def test_the_last_line_of_a_rotated_file_needs_no_newline(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts once its writer has closed the file and a while has passed; then the file is closed."""
    monkeypatch.setattr(followed, "_PATIENCE", {True: 0.05, None: 60.0, False: 3600.0})

    async def work(reader: Reader) -> None:
        before = open_files()
        with log.open("w") as old:
            old.write("1\nunfinished")
            old.flush()
            await reader.until_lines("1")
            log.rename(log.with_name("app.log.1"))
            log.write_text("2\n")
            await reader.until_lines("1", "2")
        await reader.until_lines("1", "2", "unfinished")
        assert open_files() == before + 1

    read(log, work)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_rotation_by_copytruncate(log: Path) -> None:
    """The same file begins anew."""
    log.write_text("1\n2\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("1", "2")
        shutil.copy(log, log.with_name("app.log.1"))
        os.truncate(log, 0)
        append(log, "3\n")
        await reader.until_lines("1", "2", "3")

    read(log, work)


def test_a_file_written_anew_with_more_than_before(log: Path) -> None:
    """What precedes the position is another text: the file is read from its beginning."""
    log.write_text("1\n2\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("1", "2")
        log.write_text("a\nb\nc\n")
        await reader.until_lines("1", "2", "a", "b", "c")

    read(log, work)


def test_a_file_written_anew_with_the_same(log: Path) -> None:
    """A scan that finds the same as yesterday has found it again."""
    log.write_text("CVE-1 HIGH\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("CVE-1 HIGH")
        await asyncio.sleep(0.02)  # the clock of file times ticks each 4 to 10 ms
        log.write_text("CVE-1 HIGH\n")
        await reader.until_lines("CVE-1 HIGH", "CVE-1 HIGH")

    read(log, work)


def test_deletion_and_return(log: Path) -> None:
    """A new file under the old name is read from its beginning, the same one from where it was left."""
    log.write_text("1\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("1")
        log.unlink()
        await asyncio.sleep(0.01)
        log.write_text("2\n")
        await reader.until_lines("1", "2")
        away = log.with_name("away")
        log.rename(away)
        await asyncio.sleep(0.01)
        append(away, "3\n")
        away.rename(log)
        append(log, "4\n")
        await reader.until_lines("1", "2", "3", "4")

    read(log, work)


def test_links_that_lead_elsewhere(tmp_path: Path) -> None:
    """A link that is changed, of the file or of a folder on the way, is followed at once."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.log").write_text(f"{name}1\n")
        (tmp_path / name / "two.log").write_text(f"{name}2\n")
        (tmp_path / name / "app.log").symlink_to("one.log")
    way = tmp_path / "way"
    way.symlink_to("a")

    def retarget(link: Path, target: str) -> None:
        other = link.with_name("other")
        other.symlink_to(target)
        other.rename(link)

    async def work(reader: Reader) -> None:
        await reader.until_lines("a1")
        retarget(tmp_path / "a" / "app.log", "two.log")
        await reader.until_lines("a1", "a2")
        retarget(way, str(tmp_path / "b"))
        await reader.until_lines("a1", "a2", "b1")
        append(tmp_path / "b" / "one.log", "b3\n")
        await reader.until_lines("a1", "a2", "b1", "b3")

    read(way / "app.log", work)


def test_a_folder_that_is_replaced(tmp_path: Path) -> None:
    """The folder is renamed, and another one made in its place."""
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "app.log"
    path.write_text("1\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("1")
        folder.rename(tmp_path / "logs.old")
        folder.mkdir()
        await asyncio.sleep(0.01)
        path.write_text("2\n")
        await reader.until_lines("1", "2")

    read(path, work)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_until_it_is_one(log: Path, make: Callable[[Path], None]) -> None:
    """A pipe or a folder is named as the problem; a file in its place is read."""
    make(log)

    async def work(reader: Reader) -> None:
        await reader.until(lambda: reader.problems)
        assert reader.problems == [f"{log} is not a regular file"]
        log.rename(log.with_name("aside"))
        await reader.until(lambda: reader.problems[-1] == "")
        log.write_text("1\n")
        await reader.until_lines("1")

    read(log, work)


def test_a_long_line_is_cut(log: Path) -> None:
    """64 KiB of it count; the lines after it are whole, also when it comes in pieces."""
    exact = "e" * LINE
    log.write_text(f"before\n{exact}\n{'x' * (3 * LINE)}\nafter\n")

    async def work(reader: Reader) -> None:
        wanted = ["before", exact, "x" * LINE, "after"]
        await reader.until_lines(*wanted)
        assert [block.data[:1] for block in reader.blocks if block.cut] == [b"x"]
        with log.open("a", buffering=1) as file:
            for _ in range(10):
                file.write("y" * 20_000)
                file.flush()
                await asyncio.sleep(0.001)
            file.write("end\nlast\n")
        await reader.until_lines(*wanted, "y" * LINE, "last")

    read(log, work)


def test_a_restart_goes_on_where_it_was(log: Path) -> None:
    """The position holds over a restart, within a cut line too, and is of this path alone."""
    log.write_text("1\n" + "x" * (2 * LINE))

    async def work(reader: Reader) -> None:
        await reader.until_lines("1", "x" * LINE)
        await reader.stop()
        append(log, "still x\n2\n")
        reader.start()
        await reader.until_lines("1", "x" * LINE, "2")
        await reader.stop()
        assert json.loads(reader.memory)["path"] == str(log)
        other = log.with_name("other.log")
        other.write_text("other\n")
        reader.path = other
        reader.start()
        await reader.until_lines("1", "x" * LINE, "2", "other")

    read(log, work)


@pytest.mark.parametrize("rotations", [1, 2, 3])
def test_rotated_while_away(log: Path, rotations: int) -> None:
    """After a restart the old file is read to its end, then those that came between, then the new one."""
    log.write_text("0\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("0")
        await reader.stop()
        append(log, "rest\n")
        wanted = ["0", "rest"]
        for number in range(1, rotations + 1):
            for age in range(rotations, 0, -1):
                old = log.with_name(f"app.log.{age}")
                if old.exists():
                    old.rename(log.with_name(f"app.log.{age + 1}"))
            log.rename(log.with_name("app.log.1"))
            log.write_text(f"{number}\n")
            wanted.append(str(number))
        log.with_name("app.log.9.gz").write_text("compressed\n")
        reader.start()
        await reader.until_lines(*wanted)

    read(log, work)


def test_copied_and_truncated_while_away(log: Path) -> None:
    """What was not read yet is in the copy."""
    log.write_text("0\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("0")
        await reader.stop()
        append(log, "rest\n")
        shutil.copy(log, log.with_name("app.log.1"))
        os.truncate(log, 0)
        append(log, "1\n")
        reader.start()
        await reader.until_lines("0", "rest", "1")

    read(log, work)


def test_another_file_under_the_same_name_after_a_restart(log: Path) -> None:
    """Not the old file, and the old one is nowhere: the new one is read from its beginning."""
    log.write_text("old\n")

    async def work(reader: Reader) -> None:
        await reader.until_lines("old")
        await reader.stop()
        log.unlink()
        log.with_name("occupied").write_text("takes the old inode\n")
        log.write_text("new\n")
        reader.start()
        await reader.until_lines("old", "new")

    read(log, work)


@pytest.mark.parametrize("memory", ["nonsense", "[]", '{"path": 1}', '{"path": "PATH", "at": [[1, 2]]}'])
def test_a_memory_that_is_none(log: Path, memory: str) -> None:
    """A damaged memory is no memory."""
    log.write_text("1\n")

    async def work(reader: Reader) -> None:
        await reader.stop()
        reader.lines.clear()
        reader.memory = memory.replace("PATH", str(log))
        reader.start()
        await reader.until_lines("1")

    read(log, work)


def test_checks_share_what_is_read(log: Path) -> None:
    """Two streams of one file get the same blocks; a third that comes later starts at the beginning."""
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))

    async def main() -> None:
        inotify = Inotify()
        files = Files(inotify)
        streams = [files.follow(log), files.follow(log)]

        async def collect(stream: Stream) -> list[Block]:
            blocks: list[Block] = []
            while sum(len(block.data) for block in blocks) < log.stat().st_size:
                block = await stream.next()
                assert block is not None
                blocks.append(block)
            return blocks

        first, second = await asyncio.gather(*map(collect, streams))
        assert len(first) > 3
        assert all(one is other for one, other in zip(first, second, strict=True))
        late = await collect(files.follow(log))
        assert b"".join(block.data for block in late) == log.read_bytes()
        for stream in streams:
            stream.close()
        await files.aclose()
        inotify.close()

    asyncio.run(main())


def test_a_huge_file_leaves_room_for_others(log: Path) -> None:
    """While a first read is under way, other tasks run between the blocks."""
    log.write_bytes(b"some line\n" * 500_000)

    async def main() -> None:
        inotify = Inotify()
        files = Files(inotify)
        stream = files.follow(log)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        blocks = 0
        size = 0
        while size < log.stat().st_size:
            block = await stream.next()
            assert block is not None
            size += len(block.data)
            blocks += 1
        assert blocks > 10
        assert turns >= blocks - 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await files.aclose()
        inotify.close()

    asyncio.run(main())


def test_context_lines(log: Path) -> None:
    """The lines around a match may lie in other blocks; the number is that in the file."""
    log.write_text("".join(f"{number}\n" for number in range(1, 101)))

    async def work(reader: Reader) -> None:
        await reader.until(lambda: len(reader.lines) == 100)
        append(log, "match\n")
        await reader.until(lambda: len(reader.lines) == 101)
        append(log, "after 1\nafter 2\nunfinished")
        block = next(block for block in reader.blocks if block.data.endswith(b"match\n"))
        begin = block.data.find(b"match")
        assert block.before(begin, 3) == [b"98", b"99", b"100"]
        assert block.before(begin, 200)[0] == b"1"
        assert block.before(begin, 0) == []
        assert block.after(begin + 5, 30) == [b"after 1", b"after 2"]
        assert block.after(begin + 5, 1) == [b"after 1"]
        assert block.number(begin) == 101

    read(log, work)


def test_no_descriptor_leaks_over_many_rotations(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a hundred rotations as many files are open as at the start."""
    monkeypatch.setattr(followed, "_PATIENCE", {True: 0.0, None: 0.0, False: 0.0})

    async def work(reader: Reader) -> None:
        log.write_text("0\n")
        await reader.until_lines("0")
        before = open_files()
        for number in range(1, 101):
            log.rename(log.with_name("app.log.1"))
            append(log, f"{number}\n")
            await reader.until_lines(*map(str, range(number + 1)))
        async with asyncio.timeout(PATIENCE):
            while open_files() > before + 1:
                await asyncio.sleep(0.01)  # nothing tells that a file was closed

    read(log, work)


WRITE = st.tuples(st.just("write"), st.integers(1, 4), st.integers(0, 3))
RENAMES = st.lists(WRITE | st.sampled_from([("rename",), ("wait",), ("restart",), ("late",)]), max_size=25)
COPIES = st.lists(WRITE | st.sampled_from([("copytruncate",), ("wait",), ("restart",)]), max_size=25)


class Writer:
    """Writes numbered lines, in pieces, and rotates like logrotate does, though never within a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a")
        self._pending = ""
        self.lines = 0

    def put(self, count: int, held_back: int = 0) -> None:
        """*count* lines, but for the last *held_back* characters."""
        for _ in range(count):
            text = f"{self._pending}line {self.lines}\n"
            self.lines += 1
            end = len(text) - held_back
            self._write(text[:end])
            self._pending = text[end:]

    def finish_line(self) -> None:
        self._write(self._pending)
        self._pending = ""

    def rename(self) -> None:
        for age in (8, 7, 6, 5, 4, 3, 2, 1):
            if (old := self._aged(age)).exists():
                old.rename(self._aged(age + 1))
        self._path.rename(self._aged(1))

    def open_anew(self) -> None:
        self._file.close()
        self._file = self._path.open("a")

    def copytruncate(self) -> None:
        shutil.copy(self._path, self._aged(1))
        os.truncate(self._path, 0)

    def close(self) -> None:
        self._file.close()

    def _aged(self, age: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{age}")

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


@settings(max_examples=60, deadline=None)
@given(operations=RENAMES | COPIES)
def test_every_line_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, int]]
) -> None:
    """Whatever is written in which pieces, however it is rotated and restarted: each line once, whole."""
    log = tmp_path_factory.mktemp("log") / "app.log"

    async def work(reader: Reader) -> None:
        writer = Writer(log)

        async def caught_up() -> None:
            writer.finish_line()
            await reader.until(lambda: len(reader.lines) >= writer.lines)

        writer.put(1)
        await caught_up()
        for index, (operation, *numbers) in enumerate(operations):
            if index % 6 == 5:
                await caught_up()  # of so many rotations in a row the oldest file is given up
            if operation == "write":
                writer.put(*numbers)
                continue
            writer.finish_line()
            if operation == "wait":
                await caught_up()
            elif operation == "restart":
                await reader.stop()
                reader.start()
            elif operation == "copytruncate":
                await caught_up()
                writer.copytruncate()
            else:
                writer.rename()
                if operation == "late":
                    writer.put(1)
                writer.open_anew()
        await caught_up()
        writer.close()
        await asyncio.sleep(0)
        assert reader.lines == [b"line %d" % number for number in range(writer.lines)]

    read(log, work)
