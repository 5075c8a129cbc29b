"""The sliding window, against a model that keeps every transfer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.trafficwindow import Bytes, Window

amounts = st.builds(Bytes, st.integers(0, 10**12), st.integers(0, 10**12))
# Seconds from one look to the next, and what went by.
looks = st.lists(st.tuples(st.floats(0.01, 10), amounts), max_size=300)


def total(amounts: list[Bytes]) -> Bytes:
    return Bytes(sum(one.received for one in amounts), sum(one.sent for one in amounts))


@given(looks, st.sampled_from([20.0, 60.0, 600.0, 3600.0]), st.floats(0, 100))
def test_never_less_than_the_window_holds_and_little_more(steps, seconds, later):
    """Whatever is at most *seconds* old counts; nothing counts that is older by a bucket."""
    window, kept, now = Window(seconds, finest=20.0), [], 5000.0
    for step, amount in steps:
        window.add(now, now + step, amount)
        now += step
        kept.append((now, amount))
        exact = total([amount for at, amount in kept if at > now - seconds])
        most = total([amount for at, amount in kept if at > now - seconds - window.width])
        found = window.sum(now)
        assert exact.received <= found.received <= most.received
        assert exact.sent <= found.sent <= most.sent
        assert len(window.content) <= 2 * seconds / window.width + 2
    now += later
    exact = total([amount for at, amount in kept if at > now - seconds])
    assert exact.sent <= window.sum(now).sent
    assert window.sum(now + seconds + window.width) == Bytes()


@given(st.floats(0, 10**7), amounts, st.sampled_from([60.0, 3600.0]))
def test_a_gap_is_spread_evenly(gap, amount, seconds):
    """Nobody looked for long: of what went by meanwhile, the window has its part, and no byte is lost."""
    window = Window(seconds)
    window.add(0.0, gap, amount)
    found = window.sum(gap)
    if gap <= seconds:
        assert found == amount
    else:
        share = amount.sent * seconds / gap
        piece = amount.sent * window.width / gap
        assert share - piece - 2 <= found.sent <= share + 2 * piece + 2
    assert len(window.content) <= 63


@given(looks, looks)
def test_two_windows_become_one(left, right):
    """Of an interface that got the name of another: all that both hold."""
    windows = [Window(3600.0), Window(3600.0)]
    for window, steps in zip(windows, (left, right), strict=True):
        now = 0.0
        for step, amount in steps:
            window.add(now, now + step, amount)
            now += step
    sums = [window.sum(100.0) for window in windows]
    windows[0].take(windows[1].content)
    assert windows[0].sum(100.0) == sums[0].plus(sums[1])
    assert len(windows[0].content) <= 2 * 60 + 2


def test_the_rate_is_that_of_the_last_moments():
    window = Window(3600.0, finest=20.0)
    for n in range(100):
        window.add(n * 10.0, n * 10.0 + 10.0, Bytes(0, 1000))
    window.add(1000.0, 1010.0, Bytes(0, 100_000))
    assert window.rate(1010.0, 10.0).sent > 1000
    assert window.rate(5000.0, 10.0) == Bytes()


@pytest.mark.parametrize(("direction", "wanted"), [("rx", 3), ("tx", 4), ("both", 7)])
def test_directions(direction, wanted):
    assert Bytes(3, 4).of(direction) == wanted


def test_what_is_older_ages():
    window = Window(60.0)
    window.add(-10.0, -5.0, Bytes(1, 1))
    window.add(0.0, 5.0, Bytes(2, 2))
    window.age(57.0)
    assert window.sum(5.0) == Bytes(2, 2)
    assert math.isclose(window.width, 1.0)
