"""The recorder with a real outbox: what checks report is stored with its alert, and survives a restart."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mender_monitor_py.alertstate import Limits
from mender_monitor_py.checkrecords import MAX_FINDINGS
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CRITICAL, OK, CheckId, Details, Observation, Stamp, Subject
from mender_monitor_py.outbox import Changes, Outbox
from mender_monitor_py.outbox import Limits as OutboxLimits
from mender_monitor_py.quiet import Quiet
from mender_monitor_py.recorder import Recorder

CHECK = CheckId("log", "x")
MATCH = Observation(CRITICAL, "Log file contains x", Subject("log_x", "log", "LOGCONTAINS"), event=True)
PORT = Observation(CRITICAL, "Unexpected open port tcp/1", Subject("tcp/1 nc", "port", "open"), key="tcp/1")


class BootClock(Clock):
    """A device's clock in a boot of the test's choice."""

    def __init__(self, boot: str = "boot-1", ahead: float = 0.0) -> None:
        super().__init__()
        self._boot = boot
        self._ahead = ahead

    def now(self) -> Stamp:
        stamp = super().now()
        return replace(stamp, boot_id=self._boot, wall=stamp.wall + self._ahead)


class Run:
    """One run of the daemon's middle part."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.outbox = Outbox(folder / "outbox.db", OutboxLimits(), clock or BootClock())
        self.queued = asyncio.Event()
        self.changed = asyncio.Event()
        self.recorder = Recorder(
            self.outbox, clock or BootClock(), Limits(60, 8), self.queued.set, self.changed.set
        )
        self.recorder.load()

    async def stored(self) -> list[tuple[str, str]]:
        await asyncio.wait_for(self.queued.wait(), 20)
        self.queued.clear()
        return self.waiting()

    def waiting(self) -> list[tuple[str, str]]:
        return [(r.alert.level, r.alert.name) for r in self.outbox.records()]

    async def end(self) -> list[tuple[str, str]]:
        """Ends the run; what waits then."""
        await self.recorder.close()
        try:
            return self.waiting()
        finally:
            self.outbox.close()


def in_loop(test: Callable[[Path], Coroutine[object, object, None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    run.__doc__ = test.__doc__
    return run


@in_loop
async def test_an_alert_its_state_and_its_memory_are_stored_together(tmp_path: Path) -> None:
    """
    What was remembered with an alert is there after a crash right behind it, and the alert is not repeated.
    """
    run = Run(tmp_path)
    report = run.recorder.start(CHECK, None)
    report.observe(MATCH, "offset 10")
    assert await run.stored() == [(CRITICAL, MATCH.name)]
    # No close: the process dies here.
    second = Run(tmp_path)
    report = second.recorder.start(CHECK, None)
    assert report.memory == "offset 10"
    assert report.is_bad()
    report.observe(MATCH, "offset 20")
    assert await second.end() == [(CRITICAL, MATCH.name)]
    third = Run(tmp_path)
    assert third.recorder.start(CHECK, None).memory == "offset 20"
    await third.end()
    await run.end()


@in_loop
async def test_an_event_expires_by_itself_even_over_a_restart(tmp_path: Path) -> None:
    """
    The OK comes when the expiration has passed, whether the daemon ran all the time or not.
    """
    run = Run(tmp_path)
    run.recorder.start(CHECK, 3600).observe(MATCH)
    await run.stored()
    await run.end()
    later = Run(tmp_path, BootClock("boot-2", ahead=3700))
    later.recorder.start(CHECK, 3600)
    assert await later.stored() == [(CRITICAL, MATCH.name), (OK, MATCH.name)]
    await later.end()


@in_loop
async def test_a_repetition_counts_after_a_restart(tmp_path: Path) -> None:
    """
    No alert comes of it, so it is stored at the end: the expiration begins anew with it.
    """
    run = Run(tmp_path)
    run.recorder.start(CHECK, 3600).observe(MATCH)
    await run.stored()
    await run.end()
    later = Run(tmp_path, BootClock("boot-2", ahead=2000))
    later.recorder.start(CHECK, 3600).observe(MATCH)
    assert await later.end() == [(CRITICAL, MATCH.name)]
    last = Run(tmp_path, BootClock("boot-3", ahead=4000))
    report = last.recorder.start(CHECK, 3600)
    await asyncio.sleep(0.1)
    assert report.is_bad()
    assert await last.end() == [(CRITICAL, MATCH.name)]


@in_loop
async def test_an_expiration_is_waited_for(tmp_path: Path) -> None:
    """
    The alarm rings without anything else happening.
    """
    run = Run(tmp_path)
    run.recorder.start(CHECK, 0.2).observe(MATCH)
    while await run.stored() != [(CRITICAL, MATCH.name), (OK, MATCH.name)]:  # by one transaction, or two
        assert run.waiting() == [(CRITICAL, MATCH.name)]
    await run.end()


@pytest.mark.parametrize("everything", [False, True])
def test_a_silence_ends_by_itself(tmp_path: Path, everything: bool) -> None:
    """
    Nobody says so: its time has come.
    """

    async def story() -> None:
        run = Run(tmp_path)
        until = BootClock().boottime() + 0.2
        run.recorder.set_quiet(Quiet(everything=until) if everything else Quiet({CHECK: until}))
        run.recorder.start(CHECK, None).observe(PORT)
        assert await run.stored() == []
        assert await run.stored() == [(CRITICAL, PORT.name)]
        await run.end()

    asyncio.run(story())


@in_loop
async def test_many_alerts_share_a_transaction(tmp_path: Path) -> None:
    """
    Alerts that come together are committed together, in order.
    """
    run = Run(tmp_path)
    report = run.recorder.start(CHECK, None)
    keys = [f"tcp/{n}" for n in range(300)]
    for key in keys:
        report.observe(replace(PORT, name=key, key=key))
    assert await run.stored() == [(CRITICAL, key) for key in keys]
    await run.end()


@in_loop
async def test_findings_that_are_gone_are_cleared_one_by_one(tmp_path: Path) -> None:
    """
    Of a set, each finding that is not seen any more is cleared with an OK of its own name.
    """
    run = Run(tmp_path)
    report = run.recorder.start(CHECK, None)
    other = replace(PORT, name="Unexpected open port tcp/2", key="tcp/2")
    report.observe(PORT)
    report.observe(other)
    report.gone({"tcp/2"}, "The port is closed")
    report.gone({"tcp/2"}, "The port is closed")
    await run.stored()
    records = run.outbox.records()
    assert [(r.alert.level, r.alert.name) for r in records] == [
        (CRITICAL, PORT.name),
        (CRITICAL, other.name),
        (OK, PORT.name),
    ]
    assert records[-1].alert.details == Details("The port is closed")
    assert report.is_bad("tcp/2") and not report.is_bad("tcp/1")
    await run.end()


@in_loop
async def test_a_deleted_check_closes_its_alerts_and_leaves_nothing(tmp_path: Path) -> None:
    """
    Nothing would ever clear the alert of a check that is deleted: it is cleared then.
    """
    run = Run(tmp_path)
    run.recorder.start(CHECK, None).observe(MATCH, "memory")
    await run.stored()
    run.recorder.stop(CHECK)
    run.recorder.forget(CHECK)
    assert await run.stored() == [(CRITICAL, MATCH.name), (OK, MATCH.name)]
    assert run.outbox.states() == {} and run.outbox.memories() == {}
    await run.end()


@in_loop
async def test_a_deleted_check_tells_what_has_happened_while_it_was_quiet(tmp_path: Path) -> None:
    """
    As when an update brings a root file system without the check: an event that was held back is told, with
    its time; what is so no more, since nobody looks, is not.
    """
    run = Run(tmp_path)
    report = run.recorder.start(CHECK, None)
    run.recorder.set_quiet(Quiet(held=True))
    report.observe(PORT)
    report.observe(MATCH)
    await run.recorder.run_in_worker(lambda: None)
    run.recorder.stop(CHECK)
    run.recorder.forget(CHECK)
    await run.recorder.close()
    assert run.waiting() == [(CRITICAL, MATCH.name), (OK, MATCH.name)]
    assert run.outbox.records()[0].alert.details == MATCH.details
    run.outbox.close()


def test_not_knowing_is_warned_of_once_and_tells_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However often a check says so, and though the reason changes; it is over with the next look."""

    def warned() -> list[str]:
        return [text for record in caplog.records if "unknown" in (text := record.getMessage())]

    async def scenario() -> None:
        run = Run(tmp_path)
        report = run.recorder.start(CHECK, None)
        report.observe(PORT)
        await run.stored()
        for reason in ("no permission", "no permission", "no such interface"):
            report.unknown(reason)
        assert warned() == ["log x: unknown: no permission"]
        assert run.waiting() == [(CRITICAL, PORT.name)]
        assert report.is_bad(PORT.key)  # what was found is still to be cleared
        report.known()
        report.unknown("no permission")
        assert len(warned()) == 2
        await run.end()

    asyncio.run(scenario())


@in_loop
async def test_what_is_no_text_keeps_nothing_from_the_disk(tmp_path: Path) -> None:
    """Names of files, which anybody may choose, have bytes that are no UTF-8."""
    run, odd = Run(tmp_path), os.fsdecode(b"\xff")
    report = run.recorder.start(CHECK, None)
    name, subject = f"Unexpected {odd}", replace(PORT.subject, name=odd)
    report.observe(replace(PORT, name=name, subject=subject, key=odd), memory=f"behind {odd}")
    run.recorder.start(CheckId("log", "other"), None).observe(MATCH)
    assert [alert for _, alert in await run.stored()] == [name, MATCH.name]
    await run.end()
    again = Run(tmp_path)
    assert again.recorder.start(CHECK, None).memory == r"behind \udcff"
    await again.end()


@in_loop
async def test_nothing_is_told_once_the_end_has_begun(tmp_path: Path) -> None:
    """
    Services that stop because the device shuts down are not alerted.
    """
    run = Run(tmp_path)
    report = run.recorder.start(CHECK, None)
    run.recorder.stop_observing()
    report.observe(MATCH)
    assert await run.end() == []


@in_loop
async def test_a_hostile_check_cannot_grow_without_bound(tmp_path: Path) -> None:
    """
    Findings are bounded, and those that are over make room.
    """
    run = Run(tmp_path)
    report = run.recorder.start(CHECK, None)
    for n in range(MAX_FINDINGS + 50):
        report.observe(replace(PORT, name=f"port {n}", key=str(n)))
    await run.stored()
    record = run.recorder.record(CHECK)
    assert record is not None and len(record.states) == MAX_FINDINGS
    await run.end()


@in_loop
async def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """
    What cannot be written waits in memory, the trouble is told, and it is written when it can be.
    """
    run = Run(tmp_path)
    report = run.recorder.start(CHECK, None)
    report.observe(replace(PORT, name="first", key="first"))
    await run.stored()
    stored = [report.stored]
    with full_disk():
        report.observe(replace(PORT, name="second", key="second"))
        await asyncio.wait_for(run.changed.wait(), 20)
        while not run.recorder.error:
            run.changed.clear()
            await asyncio.wait_for(run.changed.wait(), 20)
        stored.append(report.stored)
    report.observe(replace(PORT, name="third", key="third"))
    assert [name for _, name in await run.end()] == ["first", "second", "third"]
    stored.append(report.stored)
    assert stored == [True, False, True]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow: what a full disk is to it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("text", ["rubbish", "{}"])
def test_a_damaged_state_is_given_up(tmp_path: Path, text: str) -> None:
    """
    A state that cannot be read does not keep the daemon from starting.
    """
    outbox = Outbox(tmp_path / "outbox.db", OutboxLimits(), BootClock())
    outbox.commit(Changes(states={(CHECK, ""): text}))
    outbox.close()

    async def start() -> None:
        run = Run(tmp_path)
        assert not run.recorder.start(CHECK, None).is_bad()
        await run.end()

    asyncio.run(start())
