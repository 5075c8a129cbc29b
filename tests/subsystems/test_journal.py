"""The journal's reader over restarts, rotation and reboots. The real journalctl is in tests/system."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import journal as module
from mender_monitor_py.host.journal import MAX_LINE, Journal

FAKE = Path(__file__).resolve().parents[1] / "fakes/journalctl.py"
ONE, TWO = "1" * 32, "2" * 32


class Written:
    """A journal that the test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "entries"
        self._number = 0
        self._file.touch()
        (folder / "machine").mkdir()
        (folder / "machine/system.journal").touch()

    def add(self, text: str, boot: str = ONE) -> str:
        """An entry more; its cursor."""
        self._number += 1
        cursor = f"s=0;i={self._number};b={boot};m=0"
        with self._file.open("a") as file:
            file.write(json.dumps({"__CURSOR": cursor, "_BOOT_ID": boot, "MESSAGE": text}) + "\n")
        return cursor

    def vacuum(self, keep: int) -> None:
        """Only the newest *keep* entries are left."""
        lines = self._file.read_text().splitlines(keepends=True)
        self._file.write_text("".join(lines[len(lines) - keep :]))

    def reader(self, cursor: str = "") -> Journal:
        return Journal(["_TRANSPORT=syslog"], ["MESSAGE"], cursor, [str(self.folder)])


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(FAKE, programs / "journalctl")
    (programs / "journalctl").chmod(0o755)
    made = Written(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_JOURNAL", str(tmp_path / "entries"))
    monkeypatch.setattr(module, "_BACKOFF_S", (0.05, 0.1))
    return made


def reading(one: Journal, work: Callable[[Journal], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await one.open()
            await asyncio.wait_for(work(one), 30)
        finally:
            await one.close()

    asyncio.run(main())


async def texts(one: Journal, count: int) -> list[str]:
    """The next *count* messages."""
    found: list[str] = []
    while len(found) < count:
        for line in await one.next():
            entry = json.loads(line)
            if one.taken(entry["__CURSOR"]):
                found.append(entry["MESSAGE"])
    return found


def test_a_new_reader_begins_at_the_end_and_the_next_where_it_was(written: Written) -> None:
    """
    Nothing twice and nothing missed; the reader may end in between.
    """
    written.add("old")
    first = written.reader()

    async def new(one: Journal) -> None:
        written.add("a")
        assert await texts(one, 1) == ["a"]

    reading(first, new)
    written.add("b")

    async def again(one: Journal) -> None:
        written.add("c")
        assert await texts(one, 2) == ["b", "c"]

    reading(written.reader(first.cursor), again)


def test_a_place_that_has_gone_from_the_journal(written: Written) -> None:
    cursor = written.add("a")
    for text in "bcd":
        written.add(text)
    written.vacuum(2)

    async def work(one: Journal) -> None:
        assert await texts(one, 2) == ["c", "d"]

    reading(written.reader(cursor), work)


def test_journalctl_ends(written: Written) -> None:
    """
    That is told, and it goes on from where it was.
    """
    written.add("old")

    async def work(one: Journal) -> None:
        written.add("a")
        assert await texts(one, 1) == ["a"]
        assert one._process is not None
        os.kill(one._process.pid, signal.SIGKILL)
        with pytest.raises(UnknownError, match="journalctl has ended with status -9"):
            await one.next()
        written.add("b")
        assert await texts(one, 1) == ["b"]

    reading(written.reader(), work)


def test_a_reader_that_is_silent_is_replaced(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANEW_S", 0.3)
    written.add("old")

    async def work(one: Journal) -> None:
        waiting = asyncio.create_task(texts(one, 1))
        while one._process is None:
            await asyncio.sleep(0.01)
        first = one._process.pid
        while one._process is None or one._process.pid == first:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(module, "_ANEW_S", 600.0)  # a busy machine takes longer to start it
        written.add("a")
        assert await waiting == ["a"]

    reading(written.reader(), work)


def test_an_entry_without_an_end(written: Written) -> None:
    """
    What is too long is left out and counted; what follows is read.
    """
    written.add("old")

    async def work(one: Journal) -> None:
        written.add("x" * 3 * MAX_LINE)
        written.add("a")
        assert await texts(one, 1) == ["a"]
        assert one.too_long == 1

    reading(written.reader(), work)


def test_what_was_written_before_a_reboot(written: Written) -> None:
    """
    A journal that is kept: its entries of both boots.
    """
    cursor = written.add("a")
    written.add("b")
    written.add("c", TWO)

    async def work(one: Journal) -> None:
        assert await texts(one, 2) == ["b", "c"]
        written.add("d", TWO)
        assert await texts(one, 1) == ["d"]

    reading(written.reader(cursor), work)


def test_a_journal_that_is_not_kept_over_a_reboot(written: Written) -> None:
    """
    All of it is newer than the place to go on from, whatever its clock says.
    """
    for text in "abc":
        written.add(text, TWO)
    cursor = f"s=0;i=900;b={ONE};m=0"

    async def work(one: Journal) -> None:
        assert one.cursor == cursor
        assert await texts(one, 3) == ["a", "b", "c"]

    reading(written.reader(cursor), work)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: shutil.rmtree(folder / "machine"), "there is no journal"),
        (lambda folder: (folder / "bin/journalctl").unlink(), "journalctl cannot be started"),
        (lambda folder: (folder / "entries").write_text(""), "the journal has no entry yet"),
    ],
)
def test_no_journal(
    written: Written, spoil: Callable[[Path], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(written.folder / "bin"))
    spoil(written.folder)
    with pytest.raises(UnknownError, match=reason):
        reading(written.reader(), lambda one: asyncio.sleep(0))
