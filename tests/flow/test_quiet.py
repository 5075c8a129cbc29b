"""Whatever is observed, silenced, held and interrupted, the server ends up knowing what is the case."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py.alertstate import Limits
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.ledger import Store
from mender_monitor_py.model import CRITICAL, OK, CheckId, Details, Observation, Stamp, Subject
from mender_monitor_py.outbox import Changes, Outbox
from mender_monitor_py.outbox import Limits as Bounds
from mender_monitor_py.quiet import Quiet
from mender_monitor_py.recorder import LOOK_MOST_S, LOOK_S, CheckReport, Recorder
from mender_monitor_py.subsystems.findings import Findings

CHECK = CheckId("ports", "all")
EXPIRES = 30.0
KEYS = ("lasting", "event")

STEPS = st.one_of(
    st.tuples(st.just("see"), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 20.0, 100.0])),
    st.tuples(st.sampled_from(["silence", "speak", "hold", "release"])),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("pause"), st.booleans()),
)


class Kept:
    """A store that forgets nothing."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, str]] = []
        self.details: list[str] = []
        self._states: dict[tuple[CheckId, str], str] = {}

    def commit(self, changes: Changes) -> None:
        self.alerts += [(alert.name, alert.level) for alert, _ in changes.alerts]
        self.details += [alert.details.description for alert, _ in changes.alerts]
        for place, state in changes.states.items():
            if state is None:
                self._states.pop(place, None)
            else:
                self._states[place] = state

    def states(self) -> Mapping[tuple[CheckId, str], str]:
        return dict(self._states)

    def memories(self) -> Mapping[CheckId, str]:
        return {}


class GivenClock(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.stamp = Stamp("boot-0", 1000.0, 1_800_000_000.0, True)

    def boottime(self) -> float:
        return self.stamp.boottime

    def now(self) -> Stamp:
        return self.stamp


class World:
    """A device: what it does, what is the case, and what the server was told."""

    def __init__(self, store: Store | None = None, clock: GivenClock | None = None) -> None:
        self.clock, self.kept = clock or GivenClock(), Kept()
        self.store = store or self.kept
        self.quiet = Quiet()
        self.bad = dict.fromkeys(KEYS, False)
        self.due: set[str] = set()  # what has to be told at some time
        self._start()

    async def do(self, step: tuple[object, ...]) -> None:
        match step:
            case ("see", str(key), bool(bad)):
                self._see(key, bad)
            case ("wait", float(seconds)):
                now = self.clock.stamp
                self.clock.stamp = replace(now, boottime=now.boottime + seconds, wall=now.wall + seconds)
            case ("silence",):
                self.quiet = replace(self.quiet, everything=self.clock.boottime() + 1000)
            case ("speak",):
                self.quiet = replace(self.quiet, everything=0.0)
            case ("hold",):
                self.quiet = replace(self.quiet, held=True)
            case ("release",):
                self.quiet = replace(self.quiet, held=False)
            case ("pause", bool(looked)):
                await self.report.pause(0.0, looked=looked)
            case ("restart", bool(reboot)):
                await self._restart(reboot)
        self.recorder.set_quiet(self.quiet)

    def _see(self, key: str, bad: bool) -> None:
        event = key == "event"
        if event and not bad:
            return  # an event does not end by being seen
        self.bad[key] = bad
        if event:
            self.due.add(key)
        level = CRITICAL if bad else OK
        self.report.observe(Observation(level, key, Subject(key, "test", level), key=key, event=event))

    async def _restart(self, reboot: bool) -> None:
        for _ in range(5):  # what was decided gets to the disk
            await self.recorder.run_in_worker(lambda: None)
            await asyncio.sleep(0)
        await self.recorder.close()
        if reboot:
            now = self.clock.stamp
            left = self.quiet.everything - now.boottime
            self.clock.stamp = replace(now, boot_id=now.boot_id + "+", boottime=50.0, wall=now.wall + 60)
            self.quiet = replace(self.quiet, everything=50.0 + left if left > 0 else 0.0)
        self._start()

    def _start(self) -> None:
        self.recorder = Recorder(
            self.store, self.clock, Limits(60, 1000), queued=lambda: None, changed=lambda: None
        )
        self.recorder.load()
        self.recorder.set_quiet(self.quiet)
        self.report: CheckReport = self.recorder.start(CHECK, EXPIRES)

    async def end(self) -> None:
        """All is quiet at last."""
        for step in (("release",), ("speak",), ("wait", 100.0), ("wait", LOOK_MOST_S), ("wait", 100.0)):
            await self.do(step)
        await self.recorder.close()


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_the_server_ends_up_knowing_what_is_the_case(steps: list[tuple[object, ...]]) -> None:
    """
    The last alert of each finding is what it is; two in a row are never the same; and no event is left out.
    """

    async def story() -> World:
        world = World()
        for step in steps:
            await world.do(step)
        await world.end()
        return world

    world = asyncio.run(story())
    for key in KEYS:
        told = [level for name, level in world.kept.alerts if name == key]
        wanted = CRITICAL if world.bad[key] and key == "lasting" else OK
        assert (told or [OK])[-1] == wanted
        assert all(one != other for one, other in zip(["OK", *told], told, strict=False))
        assert key not in world.due or CRITICAL in told


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=10), st.sampled_from([1, 60, 3600]))
def test_what_was_kept_back_is_never_too_old_to_be_sent(steps: list[tuple[object, ...]], age: float) -> None:
    """
    However long ago it began: the outbox counts from when it is told.
    """

    async def story(outbox: Outbox, clock: GivenClock) -> None:
        world = World(outbox, clock)
        for step in (*steps, ("hold",), ("see", "lasting", True), ("see", "event", True)):
            await world.do(step)
        kept_back = {key for key in KEYS if world.report.is_kept_back(key)}
        world.quiet = Quiet()
        for wait in (LOOK_S + 1, LOOK_MOST_S + 1):
            await world.do(("wait", wait))
        await world.recorder.close()
        assert kept_back <= {record.alert.name for record in outbox.records() if record.alert.level != OK}

    clock = GivenClock()
    with (
        TemporaryDirectory() as folder,
        closing(Outbox(Path(folder) / "o.db", Bounds(age=age), clock)) as box,
    ):
        asyncio.run(story(box, clock))


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([("see", "lasting", False)], []),
        ([("see", "lasting", True)], [CRITICAL]),
        ([("wait", LOOK_S + 1)], [CRITICAL]),  # a check that looks once a day
        ([("wait", LOOK_S + 1), ("see", "lasting", False)], [CRITICAL, OK]),
    ],
)
def test_a_silence_that_ended_while_the_daemon_was_away(steps, wanted) -> None:
    """
    What is over by then is not told: the check looks first.
    """

    async def story() -> list[tuple[str, str]]:
        world = World()
        for step in (("silence",), ("see", "lasting", True)):
            await world.do(step)
        world.quiet = Quiet()
        await world.do(("restart", False))
        for step in steps:
            await world.do(step)
        await world.recorder.close()
        return world.kept.alerts

    assert [level for _, level in asyncio.run(story())] == wanted


def test_the_one_that_is_left_of_many_is_told_by_its_own_name() -> None:
    """
    More than has an alert each is found in a hold: the deployment's own, none by its end, and another one.
    """

    async def story() -> list[tuple[str, str]]:
        world = World()
        await world.do(("hold",))
        findings = Findings(world.report, 2, "Many bad things", "all")
        files = [f"file-{number:02}" for number in range(20)]
        await findings.look(map(found, [*files, "z"]), "gone")
        await findings.look(map(found, [*files, "z"]), "gone", fresh=False)
        await findings.look(map(found, ["z"]), "gone", fresh=False)
        await world.do(("release",))
        await world.end()
        return world.kept.alerts

    assert asyncio.run(story()) == [("Bad z", CRITICAL)]


def test_a_summary_that_was_kept_back_names_those_that_are_left() -> None:
    """
    After a restart in the hold, too, when it is not known any more what it stood for.
    """

    async def story() -> World:
        world = World()
        await world.do(("hold",))
        await Findings(world.report, 2, "Many bad things", "all").look(map(found, "abcdefgh"), "gone")
        await world.do(("restart", True))
        await Findings(world.report, 2, "Many bad things", "all").look(map(found, "efgh"), "gone")
        await world.do(("release",))
        await world.end()
        return world

    store = asyncio.run(story()).kept
    assert sorted(store.alerts) == [(name, CRITICAL) for name in ("Bad e", "Bad f", "Many bad things")]
    text = next(text for text in store.details if "findings" in text)
    assert text == "2 more findings at once:\nBad g (g)\nBad h (h)"


def found(name: str) -> Observation:
    return Observation(CRITICAL, f"Bad {name}", Subject(name, "test", "bad"), key=name)


@pytest.mark.parametrize("restart", [False, True])
def test_what_a_check_tells_anew_is_told_after_the_silence(restart: bool) -> None:
    """
    A script that sends the same alert again, which the server was told before: it is news all the same.
    """
    alert = found("it")
    second, third = (replace(alert, details=Details(text)) for text in ("second", "third"))

    async def story() -> World:
        world = World()
        await world.report.tell(alert)
        await world.do(("hold",))
        for seen in (second, third):
            await world.report.tell(seen)
        if restart:
            await world.do(("restart", True))
        await world.do(("wait", 100.0))
        assert len(world.kept.alerts) == 1
        await world.do(("release",))
        await world.end()
        return world

    store = asyncio.run(story()).kept
    assert store.alerts == [("Bad it", CRITICAL)] * 2
    assert store.details[1] == "third\n1 more like it came before it, and were not told"


def test_short_programs_that_were_too_many_in_a_hold_are_told() -> None:
    """
    No look finds them again: they are over. What the summary stands for besides is none by the end.
    """

    async def story() -> World:
        world = World()
        await world.do(("hold",))
        findings = Findings(world.report, 1, "Many bad things", "all")
        await findings.look(map(found, "abc"), "gone")
        for name in "xyz":
            findings.see(replace(found(name), event=True))
        await findings.look(map(found, "abc"), "gone", fresh=False)
        await findings.look([], "gone", fresh=False)
        await findings.look([], "gone", fresh=False)
        await world.do(("release",))
        await findings.look([], "gone")
        await world.end()
        return world

    store = asyncio.run(story()).kept
    critical = [name for name, level in store.alerts if level == CRITICAL]
    assert critical == ["Many bad things"]
    text = store.details[store.alerts.index(("Many bad things", CRITICAL))]
    assert text == "3 more findings at once:\nBad x (x)\nBad y (y)\nBad z (z)"
    assert ("Many bad things", OK) in store.alerts


@pytest.mark.parametrize("late", [False, True])
def test_further_ones_of_many_are_told_if_they_are_left(late: bool) -> None:
    """
    The server knows the summary. The deployment adds to it what is none by its end; somebody else does, too.
    """

    async def story() -> list[tuple[str, str]]:
        world = World()
        findings = Findings(world.report, 1, "Many bad things", "all")
        await findings.look(map(found, "abc"), "gone")
        await world.do(("hold",))
        await findings.look(map(found, "abcdefghz"), "gone", fresh=False)
        await findings.look(map(found, "abcz"), "gone", fresh=not late)
        await world.do(("release",))
        await findings.look(map(found, "abcz"), "gone")
        await world.end()
        return world.kept.alerts

    assert asyncio.run(story()) == [("Bad a", CRITICAL), ("Many bad things", CRITICAL), ("Bad z", CRITICAL)]
