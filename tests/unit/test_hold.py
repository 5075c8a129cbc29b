"""What is kept of a hold: for how long it lasts over reboots, clocks and versions."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py.hold import Hold
from mender_monitor_py.model import Stamp


def test_what_a_deployment_is_called_obeys_nobody() -> None:
    """
    Its name goes to the log.
    """
    hold = Hold("d-1", "release\n<3>all is well\x1b[2J", "b", Stamp("boot-0", 10.0, 0.0, False), "1")
    assert hold.label.isprintable() and hold.artifact not in hold.label


def test_a_device_that_boots_again_and_again_is_heard() -> None:
    """
    Without a clock that is set a hold lasts for some boots, not for ever.
    """
    hold = Hold("d-1", "a", "b", Stamp("boot-0", 10.0, 0.0, False), "1")
    boots = 0
    while hold.left(1800, Stamp(f"boot-{boots}", 20.0, 0.0, False)):
        boots += 1
        for _ in range(3):  # that the daemon starts again in the same boot is no other boot
            hold = hold.resumed(Stamp(f"boot-{boots}", 5.0, 0.0, False))
        assert boots < 10 and Hold.from_text(hold.to_text()) == hold
    assert boots == 5


def test_the_time_of_a_hold_counts_over_a_reboot_without_a_clock() -> None:
    """
    What was counted at the end of one boot is counted in the next; when it began stays known.
    """
    began = Stamp("boot-0", 10.0, 0.0, False)
    hold = Hold("d-1", "a", "b", began, "1", spent=1000.0, counted=Stamp("boot-0", 1010.0, 1000.0, False))
    hold = hold.resumed(Stamp("boot-1", 5.0, 0.0, False))
    assert hold.left(1800, Stamp("boot-1", 100.0, 95.0, False)) == 700 and hold.began == began
    assert Hold.from_text(hold.to_text()) == hold


BEGUN = Hold("d-1", "a", "b", Stamp("boot-0", 10.0, 2e9, True), "1", counted=Stamp("boot-0", 10.0, 2e9, True))
ODD = st.none() | st.booleans() | st.integers() | st.text() | st.floats() | st.lists(st.integers())


@settings(max_examples=500)
@given(st.sampled_from([*asdict(BEGUN), "later"]), st.sampled_from([*asdict(BEGUN.began), ""]), ODD)
def test_what_another_version_kept_is_a_hold_or_none(key: str, part: str, value: object) -> None:
    """
    The daemon starts whatever it finds there, and holds nothing for longer than it may.
    """
    stored = {**asdict(BEGUN), "payload_types": []}
    stored[key] = {**stored[key], part: value} if part and isinstance(stored.get(key), dict) else value
    hold = Hold.from_text(json.dumps(stored))
    if hold is not None:
        now = Stamp("boot-1", 5.0, 2e9, True)
        assert 0 <= hold.resumed(now).left(1800, now) <= 1800
        assert hold.label.isprintable() and Hold.from_text(hold.to_text()) == hold
    assert key != "later" or hold == BEGUN


@pytest.mark.parametrize("ahead", [-5, 0, 5])
def test_a_clock_that_was_years_off_makes_no_hold_endless(ahead: int) -> None:
    """
    It began by a clock of another decade, and the device has booted: the hold ends all the same.
    """
    years = ahead * 365 * 86400.0
    hold = Hold("d-1", "a", "b", Stamp("boot-0", 10.0, 2e9 + years, True), "1")
    hold = hold.resumed(Stamp("boot-1", 5.0, 2e9, True))
    left = hold.left(1800, Stamp("boot-1", 100.0, 2e9 + 95, True))
    assert left == (1800 - 95 if ahead >= 0 else 0)
    assert hold.left(1800, Stamp("boot-1", 2000.0, 2e9 + 1995, True)) == 0
