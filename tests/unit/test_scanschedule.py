"""When a scan is due: over restarts, reboots, clock jumps and times at which the device was off."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.calendarspec import Calendar
from mender_monitor_py.model import Stamp
from mender_monitor_py.scanschedule import CATCH_UP_S, Past, Plan, fraction, parse

HOUR, DAY = 3600.0, 86_400.0
NIGHT = datetime(2026, 11, 25, 3, 0, tzinfo=UTC).timestamp()
DAILY = Plan(Calendar.parse("03:00 UTC"), HOUR, 0.5)
EACH_DAY = Plan(int(DAY), HOUR, 0.5)


def at(wall: float, boot: str = "a", up: float | None = None, *, known: bool = True) -> Stamp:
    """A moment of a boot; by default the machine was started a day before NIGHT."""
    return Stamp(boot, wall - NIGHT + DAY if up is None else up, wall, known)


@pytest.mark.parametrize("plan", [DAILY, EACH_DAY])
def test_a_new_check_scans_within_its_splay(plan: Plan) -> None:
    first = at(NIGHT + 5 * HOUR)
    past = Past(first, first)
    assert plan.wait(past, first) == HOUR / 2
    assert plan.wait(past, at(NIGHT + 5.5 * HOUR)) == 0


def test_an_interval_counts_from_the_last_scan() -> None:
    started = at(NIGHT)
    past = Past(started, started, last=at(NIGHT))
    assert EACH_DAY.wait(past, at(NIGHT + HOUR)) == DAY - HOUR
    assert EACH_DAY.wait(past, at(NIGHT + DAY)) == 0


def test_a_calendar_names_the_time_of_the_day_and_the_splay_moves_it() -> None:
    started = at(NIGHT - DAY)
    past = Past(started, started, last=at(NIGHT + HOUR / 2))
    assert DAILY.wait(past, at(NIGHT + HOUR)) == DAY - HOUR / 2
    by_hand = replace(past, last=at(NIGHT + 600))  # between three o'clock and this device's own time
    assert DAILY.wait(by_hand, at(NIGHT + HOUR / 2)) == DAY


@pytest.mark.parametrize("plan", [DAILY, EACH_DAY])
def test_a_device_that_was_off_catches_up_once_within_minutes(plan: Plan) -> None:
    last = at(NIGHT - 3 * DAY + HOUR / 2, "a")
    started = at(NIGHT + 9 * HOUR, "b", up=20)
    past = Past(last, started, last)
    assert plan.wait(past, started) == CATCH_UP_S / 2
    scanned = at(started.wall + 400, "b", up=420)
    following = plan.wait(replace(past, last=scanned), scanned)
    assert following is not None
    assert following > 12 * HOUR


def test_a_scan_of_an_earlier_boot_is_remembered() -> None:
    last, started = at(NIGHT, "a"), at(NIGHT + 2 * HOUR, "b", up=20)
    assert EACH_DAY.wait(Past(last, started, last), started) == DAY - 2 * HOUR


def test_a_clock_that_was_never_set() -> None:
    """
    An interval counts the time since boot, a calendar waits; what was missed comes once the clock is set.
    """
    last = at(NIGHT - DAY, "a")
    started = at(60, "b", up=60, known=False)
    past = Past(last, started, last)
    assert EACH_DAY.wait(past, started) == DAY - 60
    assert DAILY.wait(past, started) is None
    assert DAILY.wait(past, at(NIGHT + 9 * HOUR, "b", up=100)) == CATCH_UP_S / 2 - 40


@pytest.mark.parametrize("plan", [DAILY, EACH_DAY])
def test_a_clock_that_is_set_back_or_forward_within_a_boot(plan: Plan) -> None:
    started = at(NIGHT)
    last = at(NIGHT + HOUR / 2)
    past = Past(started, started, last)
    back = Stamp("a", last.boottime + HOUR, last.wall - 90 * DAY, known=True)
    wait = plan.wait(past, back)
    assert wait is not None
    assert 0 <= wait <= DAY
    forward = Stamp("a", last.boottime + HOUR, last.wall + 90 * DAY, known=True)
    wait = plan.wait(past, forward)
    assert wait is not None
    assert wait <= DAY


def test_a_clock_that_was_wrong_in_an_earlier_boot_does_not_keep_it_waiting() -> None:
    last = at(NIGHT + 1000 * DAY, "a")
    started = at(NIGHT, "b", up=10)
    wait = DAILY.wait(Past(last, started, last), started)
    assert wait is not None
    assert 0 < wait <= DAY + HOUR


def test_a_scan_that_failed_is_tried_again_ever_later_but_never_later_than_the_schedule() -> None:
    started = at(NIGHT)
    past = Past(started, started, last=at(NIGHT))
    waits = [EACH_DAY.wait(replace(past, failed=failed), at(NIGHT)) for failed in range(8)]
    assert waits == [DAY, 600, HOUR, 2 * HOUR, 4 * HOUR, 6 * HOUR, 6 * HOUR, 6 * HOUR]
    assert EACH_DAY.wait(replace(past, failed=5), at(NIGHT + DAY - 60)) is not None
    assert (EACH_DAY.wait(replace(past, failed=5), at(NIGHT + DAY)) or 0) <= 0


def test_a_date_that_passes_is_a_reason_to_scan() -> None:
    started = at(NIGHT)
    past = Past(started, started, last=at(NIGHT))
    passes = NIGHT + 10 * HOUR
    assert EACH_DAY.wait(past, at(NIGHT + HOUR), [passes]) == 9 * HOUR + HOUR / 2
    assert EACH_DAY.wait(replace(past, last=at(passes + 1)), at(passes + 1), [passes]) == DAY


def test_the_share_of_the_splay_is_steady_and_spread() -> None:
    shares = sorted(fraction(f"{device:032x} vulnscan") for device in range(1000))
    assert shares == sorted(fraction(f"{device:032x} vulnscan") for device in range(1000))
    assert all(0 <= share < 1 for share in shares)
    tenths = [sum(number <= share * 10 < number + 1 for share in shares) for number in range(10)]
    assert min(tenths) > 60


@pytest.mark.parametrize("text", ["59", "10s", "0", "1w", "", "daily weekly", "1.5h"])
def test_a_schedule_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"minute|calendar|number of seconds"):
        parse(text)


def test_schedules() -> None:
    assert parse("1d") == DAY
    assert parse("90m") == 5400
    assert isinstance(parse("Sun 03:00"), Calendar)


WALL = st.floats(NIGHT - 1000 * DAY, NIGHT + 1000 * DAY)


@given(
    st.sampled_from([DAILY, EACH_DAY]),
    st.builds(Stamp, st.sampled_from("ab"), st.floats(0, 100 * DAY), WALL, st.booleans()),
    st.builds(Stamp, st.just("b"), st.floats(0, 100 * DAY), WALL, st.booleans()),
    st.floats(0, 100 * DAY),
    st.integers(0, 9),
)
def test_whatever_happened_to_the_clocks_it_waits_for_one_period_at_most(
    plan: Plan, last: Stamp, started: Stamp, since: float, failed: int
) -> None:
    """
    And when it is due it becomes so, unless the clock has to be set first.
    """
    now = replace(started, boottime=started.boottime + since, wall=started.wall + since)
    if last.boot_id == now.boot_id and last.boottime > now.boottime:
        return  # in the future
    wait = plan.wait(Past(last, started, last, failed), now)
    if wait is None:
        assert not now.known
        return
    assert wait <= DAY + HOUR
