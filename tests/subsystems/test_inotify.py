"""The kernel's file events, on real files."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mender_monitor_py.host.inotify import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Event,
    Inotify,
    Watch,
)

PATIENCE = 20


def with_inotify(work: Callable[[Inotify], Awaitable[None]]) -> None:
    async def main() -> None:
        inotify = Inotify()
        try:
            await asyncio.wait_for(work(inotify), PATIENCE)
        finally:
            inotify.close()

    asyncio.run(main())


async def until(events: asyncio.Queue[Event], mask: int) -> Event:
    while True:
        event = await events.get()
        if event.mask & mask:
            return event


def test_entries_of_a_folder(tmp_path: Path) -> None:
    """A created, written and moved entry is told with its name; both halves of a move share a cookie."""

    async def work(inotify: Inotify) -> None:
        events: asyncio.Queue[Event] = asyncio.Queue()
        mask = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO
        inotify.watch(tmp_path, mask, events.put_nowait)
        (tmp_path / "näme").write_text("x")
        assert (await until(events, IN_CREATE)).name == "näme"
        assert (await until(events, IN_CLOSE_WRITE)).name == "näme"
        (tmp_path / "näme").rename(tmp_path / "other")
        source, target = await until(events, IN_MOVED_FROM), await until(events, IN_MOVED_TO)
        assert (source.name, target.name) == ("näme", "other")
        assert source.cookie == target.cookie != 0

    with_inotify(work)


def test_two_watches_on_one_path_have_their_own_masks(tmp_path: Path) -> None:
    """Each callback hears of its own mask, and cancelling one leaves the other."""

    async def work(inotify: Inotify) -> None:
        log = tmp_path / "log"
        log.touch()
        writes: asyncio.Queue[Event] = asyncio.Queue()
        moves: asyncio.Queue[Event] = asyncio.Queue()
        writing = inotify.watch(log, IN_MODIFY, writes.put_nowait)
        inotify.watch(log, IN_MOVE_SELF, moves.put_nowait)
        log.write_text("x")
        assert (await writes.get()).mask == IN_MODIFY
        writing.cancel()
        log.write_text("y")
        log.rename(tmp_path / "log.1")
        assert (await moves.get()).mask == IN_MOVE_SELF
        assert writes.empty()

    with_inotify(work)


def test_a_deleted_file_ends_its_watch(tmp_path: Path) -> None:
    """IN_IGNORED comes without being asked for; afterwards the watch is not active, and can be made anew."""

    async def work(inotify: Inotify) -> None:
        log = tmp_path / "log"
        log.touch()
        events: asyncio.Queue[Event] = asyncio.Queue()
        watch = inotify.watch(log, IN_DELETE_SELF, events.put_nowait)
        log.unlink()
        assert (await events.get()).mask & IN_DELETE_SELF
        assert (await events.get()).mask & IN_IGNORED
        assert not watch.active
        watch.cancel()
        log.touch()
        again = inotify.watch(log, IN_MODIFY, events.put_nowait)
        log.write_text("x")
        assert (await events.get()).mask == IN_MODIFY
        assert again.active

    with_inotify(work)


def test_cancelled_inside_a_callback(tmp_path: Path) -> None:
    """A callback may cancel itself and others; what was read already is not delivered to them."""

    async def work(inotify: Inotify) -> None:
        seen: list[str] = []
        watches: list[Watch] = []
        done = asyncio.Event()

        def first(event: Event) -> None:
            seen.append(event.name)
            for watch in watches:
                watch.cancel()

        watches.append(inotify.watch(tmp_path, IN_CREATE, first))
        watches.append(inotify.watch(tmp_path, IN_CREATE, lambda event: seen.append("never")))
        (tmp_path / "a").touch()
        (tmp_path / "b").touch()
        inotify.watch(tmp_path, IN_CREATE, lambda event: done.set() if event.name == "c" else None)
        while not seen:
            await asyncio.sleep(0)
        inotify.watch(tmp_path, IN_CREATE, lambda event: done.set() if event.name == "c" else None)
        (tmp_path / "c").touch()
        await done.wait()
        assert seen == ["a"]

    with_inotify(work)


def test_a_raising_callback_harms_no_other(tmp_path: Path) -> None:
    """The loop is told of the error; the next callback and the next event still come."""

    async def work(inotify: Inotify) -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        events: asyncio.Queue[Event] = asyncio.Queue()

        def raising(event: Event) -> None:
            raise ValueError(event.name)

        inotify.watch(tmp_path, IN_CREATE, raising)
        inotify.watch(tmp_path, IN_CREATE, events.put_nowait)
        (tmp_path / "a").touch()
        (tmp_path / "b").touch()
        assert [(await events.get()).name, (await events.get()).name] == ["a", "b"]
        assert len(errors) == 2

    with_inotify(work)


def test_lost_events_are_told_to_everyone(tmp_path: Path) -> None:
    """When the kernel's queue was too short, every watch hears it."""

    async def work(inotify: Inotify) -> None:
        calm, busy = tmp_path / "calm", tmp_path / "busy"
        calm.mkdir()
        busy.mkdir()
        told: asyncio.Queue[Event] = asyncio.Queue()
        inotify.watch(calm, IN_CREATE, told.put_nowait)
        inotify.watch(busy, IN_CREATE, lambda event: None)
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        for number in range(limit + 1):  # two names in turn: the kernel merges equal neighbours
            name = busy / str(number % 2)
            name.touch()
            name.unlink()
        assert (await told.get()).mask & IN_Q_OVERFLOW

    with_inotify(work)


def test_a_flood_is_taken_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that never pauses wakes the process some hundred times a second; nothing is lost."""

    async def work(inotify: Inotify) -> None:
        events: asyncio.Queue[Event] = asyncio.Queue()
        inotify.watch(tmp_path, IN_CREATE, events.put_nowait)
        reads = 0
        original = inotify._read

        def count() -> None:
            nonlocal reads
            reads += 1
            original()

        monkeypatch.setattr(inotify, "_read", count)
        asyncio.get_running_loop().add_reader(inotify._fd, count)
        began = time.monotonic()
        for number in range(1000):
            (tmp_path / str(number)).touch()
            await asyncio.sleep(0)
        names = [(await events.get()).name for _ in range(1000)]
        assert names == [str(number) for number in range(1000)]
        assert reads < 300 + 300 * (time.monotonic() - began)

    with_inotify(work)


def test_closed_without_a_leak(tmp_path: Path) -> None:
    """close() gives the descriptor back, and may be called before anything was watched."""

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def main() -> None:
        before = count()
        Inotify().close()
        inotify = Inotify()
        watch = inotify.watch(tmp_path, IN_CREATE, lambda event: None)
        assert count() == before + 1
        inotify.close()
        watch.cancel()
        assert count() == before

    asyncio.run(main())


def test_errors_name_the_path(tmp_path: Path) -> None:
    """A path that is not there is an OSError with its name."""

    async def work(inotify: Inotify) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            inotify.watch(tmp_path / "absent", IN_CREATE, lambda event: None)
        assert caught.value.filename == str(tmp_path / "absent")

    with_inotify(work)


def test_the_instance_limit_names_its_sysctl(tmp_path: Path) -> None:
    """Too many instances: the error says which sysctl to raise."""

    async def main() -> None:
        opened: list[Inotify] = []
        limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
        if limit > 1000:
            pytest.skip("the limit is too high to be reached")
        try:
            with pytest.raises(OSError, match=r"max_user_instances") as caught:
                for _ in range(limit + 1):
                    inotify = Inotify()
                    inotify.watch(tmp_path, IN_CREATE, lambda event: None)
                    opened.append(inotify)
            assert caught.value.errno == errno.EMFILE
        finally:
            for inotify in opened:
                inotify.close()

    asyncio.run(main())
