"""What is counted of interfaces, against a model that saw every byte: resets, restarts, reboots, clocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mender_monitor_py.model import Stamp
from mender_monitor_py.trafficmeter import MAX_INTERFACES, Link, Meter, Reading, choose, exceeds
from mender_monitor_py.trafficshares import Who
from mender_monitor_py.trafficwindow import Bytes

WINDOW, INTERVAL = 600.0, 10.0
EPOCH = 1_800_000_000.0
NAME = "eth0"


def at(boottime: float, boot: str = "a", wall: float = EPOCH, *, known: bool = True) -> Stamp:
    return Stamp(boot, boottime, wall, known)


def meter(*words: str, memory: str = "", now: Stamp | None = None) -> Meter:
    return Meter(words or (NAME,), WINDOW, INTERVAL, now or at(100.0), memory)


def shown(received: int, sent: int, name: str = NAME) -> Reading:
    return Reading(name, Bytes(received, sent))


@dataclass
class Passed:
    """Bytes that went by at some time between two looks, in true time."""

    since: float
    until: float
    sent: int


@dataclass
class Machine:
    """A device: true time, a boot, a wall clock that may be wrong, and one interface."""

    now: float = 1000.0
    boot: int = 0
    booted: float = 0.0
    wall_known: bool = True
    index: int = 2
    counter: int = 12345
    passed: list[Passed] = field(default_factory=list)

    def stamp(self) -> Stamp:
        wall = EPOCH + self.now if self.wall_known else self.now - self.booted
        return Stamp(str(self.boot), self.now - self.booted, wall, self.wall_known)


class MeterIsRight(RuleBasedStateMachine):
    """The window holds all that went by for certain within it, and nothing that certainly did not."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.looked = self.machine.now
        self.pending = 0
        self.meter = Meter((NAME,), WINDOW, INTERVAL, self.machine.stamp())
        self.look()

    def look(self) -> None:
        machine = self.machine
        readings = {machine.index: shown(0, machine.counter)}
        self.meter.look(machine.stamp(), readings, [machine.index])
        if self.pending:
            machine.passed.append(Passed(self.looked, machine.now, self.pending))
        self.pending, self.looked = 0, machine.now

    @rule(seconds=st.floats(0.5, 15.0), sent=st.integers(0, 10**9))
    def transfer_and_look(self, seconds: float, sent: int) -> None:
        self.machine.now += seconds
        self.machine.counter += sent
        self.pending += sent
        self.look()

    @rule(seconds=st.floats(0.0, 2000.0))
    def idle(self, seconds: float) -> None:
        """Suspended, say: nobody looks, and nothing goes by."""
        self.machine.now += seconds
        self.look()

    @rule(sent=st.integers(0, 10**9))
    def driver_reload(self, sent: int) -> None:
        """The counter begins anew; what it shows is all that can be known."""
        self.look()
        before, self.machine.counter = self.machine.counter, sent
        self.machine.now += 1.0
        self.pending = sent if sent < before else sent - before
        self.look()

    @rule(sent=st.integers(0, 10**9))
    def hotplug(self, sent: int) -> None:
        """Another interface of the same name."""
        self.look()
        self.machine.index += 1
        self.machine.counter = sent
        self.machine.now += 1.0
        self.pending = sent
        self.look()

    @rule(seconds=st.floats(0.0, 3000.0), sent=st.integers(0, 10**9), jump=st.booleans())
    def daemon_restart(self, seconds: float, sent: int, jump: bool) -> None:
        """The counter goes on; the wall clock means nothing within a boot."""
        memory = self.meter.encode(self.machine.stamp())
        self.machine.now += seconds
        self.machine.counter += sent
        self.pending += sent
        self.machine.wall_known ^= jump
        self.meter = Meter((NAME,), WINDOW, INTERVAL, self.machine.stamp(), memory)
        self.machine.wall_known ^= jump
        self.look()

    @rule(
        off=st.floats(0.0, 2000.0), up=st.floats(0.5, 30.0), sent=st.integers(0, 10**9), known=st.booleans()
    )
    def reboot(self, off: float, up: float, sent: int, known: bool) -> None:
        memory = self.meter.encode(self.machine.stamp())
        self.machine.now += off
        self.looked, self.machine.booted = self.machine.now, self.machine.now
        self.machine.boot += 1
        self.machine.now += up
        self.machine.index, self.machine.counter = 2, sent
        self.pending = sent
        self.machine.wall_known = known
        self.meter = Meter((NAME,), WINDOW, INTERVAL, self.machine.stamp(), memory)
        self.look()
        if not known:  # until the clock is set, the meter may think that the device was off for no time
            self.bounds(late=False)
            self.machine.wall_known = True
            self.look()

    def bounds(self, *, late: bool = True) -> None:
        now = self.machine.now
        # Memory has tenths of seconds.
        least = sum(one.sent for one in self.machine.passed if one.since >= now - WINDOW + 1.0)
        width = self.meter.interfaces[NAME].window.width
        reach = now - WINDOW - width - 1.0
        most = sum(one.sent for one in self.machine.passed if one.until >= reach)
        found = self.meter.sums(self.machine.stamp().boottime).get(NAME, Bytes()).sent
        assert least <= found
        if late:
            assert found <= most

    @invariant()
    def all_that_is_certain_is_counted(self) -> None:
        self.bounds()

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.meter.encode(self.machine.stamp())) < 10_000


TestMeterIsRight = MeterIsRight.TestCase


def test_the_first_look_of_a_new_check_counts_nothing():
    """Nobody knows when that went by."""
    one = meter()
    one.look(at(100.0), {2: shown(10**12, 10**12)}, [2])
    assert one.sums(100.0) == {NAME: Bytes()}
    one.look(at(110.0), {2: shown(10**12 + 5, 10**12 + 7)}, [2])
    assert one.sums(110.0) == {NAME: Bytes(5, 7)}


def test_a_counter_that_went_back_adds_what_it_shows():
    one = meter()
    one.look(at(100.0), {2: shown(2**32 - 10, 5000)}, [2])
    one.look(at(110.0), {2: shown(90, 200)}, [2])
    assert one.sums(110.0) == {NAME: Bytes(90, 200)}


def test_what_is_not_chosen_does_not_count_and_is_no_step_when_it_is():
    one = meter("default")
    for now, chosen in ((100.0, 2), (110.0, 2), (120.0, 3), (130.0, 3)):
        sent = int(now) * 10
        one.look(at(now), {2: shown(0, sent), 3: shown(0, 10**12 + sent, "wwan0")}, [chosen])
    assert one.sums(130.0) == {NAME: Bytes(0, 200), "wwan0": Bytes(0, 100)}


def test_the_last_bytes_of_an_interface_that_goes_count():
    one = meter()
    one.look(at(100.0), {2: shown(0, 1000)}, [2])
    one.vanished(2, shown(0, 1700), 105.0)
    one.look(at(106.0), {}, [])
    assert one.sums(106.0) == {NAME: Bytes(0, 700)}
    one.look(at(900.0), {}, [])
    assert one.sums(900.0) == {NAME: Bytes()}  # so that its end can be told
    one.look(at(901.0), {}, [])
    assert one.sums(901.0) == {}


def test_what_it_shows_when_it_appears_is_not_ours():
    one = meter()
    one.look(at(100.0), {}, [])
    one.appeared(7, shown(0, 10**12))
    one.look(at(101.0), {7: shown(0, 10**12 + 3)}, [7])
    assert one.sums(101.0) == {NAME: Bytes(0, 3)}


def test_two_interfaces_that_swap_their_names():
    one = meter("*")
    one.look(at(100.0), {2: shown(0, 0, "a"), 3: shown(0, 0, "b")}, [2, 3])
    one.look(at(110.0), {2: shown(0, 10, "a"), 3: shown(0, 20, "b")}, [2, 3])
    one.look(at(120.0), {2: shown(0, 11, "b"), 3: shown(0, 22, "a")}, [2, 3])
    assert one.sums(120.0) == {"a": Bytes(0, 22), "b": Bytes(0, 11)}


def test_more_interfaces_than_are_followed():
    one = meter("*")
    names = {n: shown(0, 0, f"veth{n}") for n in range(MAX_INTERFACES + 5)}
    one.look(at(100.0), names, names)
    assert len(one.sums(100.0)) == MAX_INTERFACES
    assert one.left_out >= 5


def test_whose_it_was_is_remembered():
    one = meter()
    one.look(at(100.0), {2: shown(0, 0)}, [2])
    who = Who(("program", "/bin/x"), "/bin/x", ("pid: 5", "user: root"), own=True)
    one.interfaces[NAME].shares.add(who, 100.0, 110.0, Bytes(1, 2))
    one.look(at(110.0), {2: shown(0, 2)}, [2])
    two = meter(memory=one.encode(at(110.0)), now=at(120.0))
    (share,) = two.interfaces[NAME].shares.top(120.0, "tx")
    assert (share.who, share.sum) == (who, Bytes(1, 2))


def test_a_route_that_moves_back_while_nobody_looks_is_no_step():
    """The interface was there all the time; only what goes over it from now on counts."""
    one = meter("default")
    for now, chosen in ((100.0, 2), (110.0, 2), (120.0, 3)):
        sent = int(now) * 10
        one.look(at(now), {2: shown(0, 10**9 + sent), 3: shown(0, sent, "wwan0")}, [chosen])
    two = meter("default", memory=one.encode(at(120.0)), now=at(200.0))
    two.look(at(200.0), {2: shown(0, 2 * 10**9), 3: shown(0, 1300, "wwan0")}, [2])
    two.look(at(210.0), {2: shown(0, 2 * 10**9 + 7), 3: shown(0, 1300, "wwan0")}, [2])
    assert two.sums(210.0) == {NAME: Bytes(0, 200 + 7), "wwan0": Bytes(0, 100)}


def test_what_is_not_meant_any_more_is_not_remembered():
    one = meter()
    one.look(at(100.0), {2: shown(0, 0)}, [2])
    one.look(at(110.0), {2: shown(0, 9)}, [2])
    assert meter("wwan*", memory=one.encode(at(110.0)), now=at(120.0)).sums(120.0) == {}


@given(
    st.text()
    | st.sampled_from(['{"at":{}}', '{"at":null,"interfaces":[]}', "[]", "3", '{"interfaces":[{}]}'])
)
def test_any_memory_is_survived(memory):
    one = meter(memory=memory)
    one.look(at(100.0), {2: shown(0, 5)}, [2])
    assert one.sums(100.0) == {NAME: Bytes()}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["eth0"], {"eth0": [2]}),
        (["eth*"], {"eth*": [2, 3]}),
        (["*"], {"*": [2, 3, 4]}),
        (["lo"], {"lo": [1]}),
        (["default", "eth0"], {"default": [4], "eth0": [2]}),
        (["usb?"], {"usb?": []}),
    ],
)
def test_what_is_meant(words, wanted):
    names = {1: "lo", 2: "eth0", 3: "eth1", 4: "wwan0"}
    links = {index: Link(name, index == 1) for index, name in names.items()}
    assert choose(words, links, {4}) == wanted


@pytest.mark.parametrize(
    ("amount", "bad", "wanted"),
    [(1000, False, False), (1001, False, True), (950, True, True), (900, True, True), (899, True, False)],
)
def test_the_limit_and_nine_tenths_of_it(amount, bad, wanted):
    assert exceeds(amount, 1000, bad=bad) is wanted
