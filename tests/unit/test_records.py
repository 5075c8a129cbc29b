"""When an alert happened, whatever the wall clock did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.model import Stamp
from mender_monitor_py.records import age, happened

NOW = Stamp("this", 1000.0, 2_000_000_000.0, True)


@pytest.mark.parametrize(
    ("at", "now", "expected"),
    [
        # its own clock was right
        (Stamp("this", 400.0, 1_999_999_400.5, True), NOW, 1_999_999_400.5),
        # booted in 1970, the clock is known by now
        (Stamp("this", 400.0, 430.0, False), NOW, 1_999_999_400.0),
        # "known" but wrong: corrected by hand since
        (Stamp("this", 400.0, 1_900_000_000.0, True), NOW, 1_999_999_400.0),
        # nobody knows: as it is
        (Stamp("this", 400.0, 430.0, False), Stamp("this", 1000.0, 1030.0, False), 430.0),
        # an earlier boot with a clock
        (Stamp("before", 400.0, 1_900_000_000.0, True), NOW, 1_900_000_000.0),
        # an earlier boot without: before this boot
        (Stamp("before", 400.0, 430.0, False), NOW, 1_999_999_000.0),
        (Stamp("before", 400.0, 430.0, False), Stamp("this", 5.0, 35.0, False), 430.0),
    ],
)
def test_the_time_that_is_sent(at: Stamp, now: Stamp, expected: float) -> None:
    assert happened(at, now) == expected


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=10), st.floats(-1e9, 1e9))
def test_alerts_of_one_boot_keep_their_distance(moments: list[float], step: float) -> None:
    """
    Alerts of before the clock was set, by whatever step, get times as far apart as they were.
    """
    walls = [happened(Stamp("this", moment, moment + 30, False), NOW) for moment in sorted(moments)]
    assert walls == sorted(walls)
    assert walls[-1] - walls[0] == pytest.approx(max(moments) - min(moments), abs=1e-3)


def test_age_counts_only_what_has_passed_for_certain() -> None:
    assert age(Stamp("this", 400.0, 0.0, False), NOW) == 600
    assert age(Stamp("before", 400.0, 1_999_990_000.0, True), NOW) == 10_000
    assert age(Stamp("before", 400.0, 430.0, False), NOW) == 1000
