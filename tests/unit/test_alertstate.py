"""Alert state: every subsystem's checks turn good and bad, flap, expire and renew by these rules."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.alertstate import (
    Limits,
    State,
    catch_up,
    close,
    decode,
    encode,
    next_due,
    observe,
    rebase,
    tick,
)
from mender_monitor_py.model import CRITICAL, OK, Alert, Details, Line, Observation, Stamp, Subject

LIMITS = Limits(flap_window=60, flap_count=8)
STAMP = Stamp("boot-1", 100.0, 1_800_000_000.0, True)

BAD = Observation(
    CRITICAL,
    "Service cron not running",
    Subject("cron", "service", "not-running"),
    flapping_name="Service cron going up and down",
)
GOOD = replace(BAD, level=OK, subject=Subject("cron", "service", "running"))
MATCH = Observation(
    CRITICAL,
    "Log file contains x",
    Subject("log_x", "log", "LOGCONTAINS"),
    Details("x present in f", line_matching=Line(3, "x")),
    event=True,
    cleared="x was not seen any more",
)


def play(
    seen: Sequence[tuple[float, Observation | None]], limits: Limits = LIMITS
) -> tuple[State, list[Alert]]:
    state = State()
    alerts: list[Alert] = []
    for now, observation in seen:
        step = tick(state, now, limits) if observation is None else observe(state, observation, now, limits)
        state = step[0]
        alerts += step[1]
    return state, alerts


def titles(alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.level, alert.name) for alert in alerts]


def test_a_check_that_starts_in_the_good_state_sends_nothing():
    """
    A check that starts in the good state sends nothing.
    """
    assert play([(0, GOOD), (5, GOOD)])[1] == []


def test_going_bad_and_good_again_sends_one_alert_each():
    """
    CRITICAL when it goes bad, once; OK of the same name when it is good again.
    """
    _, alerts = play([(0, GOOD), (1, BAD), (2, BAD), (3, GOOD), (4, GOOD)])
    assert titles(alerts) == [(CRITICAL, BAD.name), (OK, BAD.name)]
    assert [alert.subject.status for alert in alerts] == ["not-running", "running"]


def test_another_bad_level_is_a_change():
    """
    A finding that gets worse is told again; the OK comes once.
    """
    _, alerts = play([(0, replace(BAD, level="WARNING")), (1, BAD), (2, GOOD)])
    assert [alert.level for alert in alerts] == ["WARNING", CRITICAL, OK]


def test_flapping_is_one_alert_and_silence_until_it_ends():
    """
    Thirty-two rounds of 2.2 s down and 2.2 s up, with the default settings: one flapping alert while it
    goes on, and after it the flapping alert is cleared and the state told.
    """
    rounds = [
        (start + offset, seen)
        for start in (i * 4.4 for i in range(32))
        for offset, seen in ((0.0, BAD), (2.2, GOOD))
    ]
    state, alerts = play(rounds)
    assert state.flapping
    assert titles(alerts[-1:]) == [(CRITICAL, "Service cron going up and down")]
    assert len(alerts) == 8

    end = rounds[-1][0]
    due = next_due(state, LIMITS)
    assert due is not None and end < due < end + 120
    state, after = tick(state, due, LIMITS)
    assert titles(list(after)) == [(OK, "Service cron going up and down"), (OK, "Service cron not running")]
    assert not state.flapping
    assert next_due(state, LIMITS) is None


def test_flapping_that_ends_in_the_bad_state_says_so():
    """
    When flapping ends while the service is down, its CRITICAL follows.
    """
    state, _ = play([(i, BAD if i % 2 == 0 else GOOD) for i in range(9)])
    assert state.flapping and state.bad
    state, after = tick(state, 70.0, LIMITS)
    assert titles(list(after)) == [(OK, "Service cron going up and down"), (CRITICAL, BAD.name)]


def test_an_event_expires_after_its_last_repetition():
    """
    Further matches send nothing and renew the expiration; the OK has the alert's name and says how often.
    """
    limits = replace(LIMITS, expires_after=10)
    state, alerts = play([(0, MATCH), (4, MATCH), (8, MATCH)], limits)
    assert titles(alerts) == [(CRITICAL, MATCH.name)]
    assert alerts[0].details.line_matching == Line(3, "x")
    assert next_due(state, limits) == 18
    assert tick(state, 17.9, limits)[1] == ()
    state, after = tick(state, 18, limits)
    assert titles(list(after)) == [(OK, MATCH.name)]
    assert after[0].details.description == "x was not seen any more (it was seen 3 times)"
    assert after[0].subject == MATCH.subject
    assert next_due(state, limits) is None


def test_without_an_expiration_an_event_stays():
    """
    Without an expiration it stays CRITICAL.
    """
    state, alerts = play([(0, MATCH), (1e9, None)])
    assert len(alerts) == 1
    assert next_due(state, LIMITS) is None


def test_an_expiration_added_later_counts_from_the_last_match():
    """
    An expiration added to the file of a check that is CRITICAL already counts from its last match.
    """
    state, _ = play([(0, MATCH), (4, MATCH)])
    assert next_due(state, replace(LIMITS, expires_after=6)) == 10


def test_a_condition_does_not_expire():
    """
    A service that is down stays down, whatever expiration is set.
    """
    state, _ = play([(0, BAD)])
    assert next_due(state, replace(LIMITS, expires_after=5)) is None


def test_a_changed_check_closes_its_old_alert():
    """
    The server knows an alert by its name: one that nothing will clear any more is cleared at the change.
    """
    other = replace(MATCH, name="Log file contains y")
    _, alerts = play([(0, MATCH), (1, other)])
    assert titles(alerts) == [(CRITICAL, MATCH.name), (OK, MATCH.name), (CRITICAL, other.name)]


def test_closing_tells_only_what_the_server_holds():
    """
    A deleted check's alerts end, the flapping one too; a good one's need not.
    """
    assert close(play([(0, GOOD)])[0], "deleted") == ()
    assert titles(list(close(play([(0, BAD)])[0], "deleted"))) == [(OK, BAD.name)]
    flapping = play([(i, GOOD if i % 2 else BAD) for i in range(8)])[0]
    assert (OK, BAD.flapping_name) in titles(list(close(flapping, "deleted")))


def test_a_state_is_read_back_as_it_was_written():
    """
    States survive a restart: what is written is read back, without the lines.
    """
    state, _ = play([(0, MATCH), (1, MATCH)])
    assert decode(encode(state, STAMP)) == (state, STAMP)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"at":1}', '{"at":{},"last":null,"changes":[]}'])
def test_a_damaged_state_is_a_value_error(text):
    """
    A damaged record is refused, not believed.
    """
    with pytest.raises(ValueError):
        decode(text)


def test_a_reboot_moves_the_times_by_what_the_wall_clock_says():
    """
    An expiration goes on while the device is off, as far as the wall clock can be trusted.
    """
    state = State(last=MATCH.without_lines(), seen_at=90.0, since=80.0, changes=(80.0,), told=CRITICAL)
    after_an_hour = Stamp("boot-2", 20.0, STAMP.wall + 3600, True)
    moved = rebase(state, STAMP, after_an_hour)
    assert after_an_hour.boottime - moved.seen_at == pytest.approx(3610)
    unset = Stamp("boot-2", 20.0, 12.0, False)
    assert unset.boottime - rebase(state, STAMP, unset).seen_at == pytest.approx(30)
    assert rebase(state, STAMP, replace(STAMP, boottime=500.0)) is state


def test_what_is_silent_is_told_later_if_it_is_still_so():
    """
    Nothing is told while a check is silent; afterwards what is the case then, and nothing if it is as before.
    """
    state, alerts = observe(State(), BAD, 1, LIMITS, silent=True)
    assert alerts == () and state.bad
    assert titles(list(catch_up(state)[1])) == [(CRITICAL, BAD.name)]
    state, alerts = observe(state, GOOD, 2, LIMITS, silent=True)
    assert alerts == ()
    assert catch_up(state) == (state, ())
    assert catch_up(State()) == (State(), ())


def test_an_event_in_silence_is_told_as_it_was_seen_first():
    """
    A process that is seen again when it has ended: the alert has what was known of it while it ran. Of a
    condition it has what is the case at the end.
    """
    first, later = Details("pid 7, run by root"), Details("it has ended")
    for seen, told in ((replace(MATCH, details=first), first), (replace(BAD, details=first), later)):
        state, _ = observe(State(), seen, 1, LIMITS, silent=True)
        state, _ = observe(state, replace(seen, details=later), 2, LIMITS, silent=True)
        state = decode(encode(state, STAMP))[0]
        (alert,) = catch_up(state)[1]
        assert alert.details == told
        # It may be seen once more after the silence and before it is told.
        (alert,) = observe(state, replace(seen, details=later), 3, LIMITS)[1]
        assert alert.details == told


def test_flapping_goes_on_in_silence():
    """
    Flapping that ends in silence is cleared afterwards; flapping that begins in it is told if it goes on.
    """
    state, _ = play([(i, GOOD if i % 2 else BAD) for i in range(8)])
    state, alerts = tick(state, 100, LIMITS, silent=True)
    assert alerts == ()
    assert titles(list(catch_up(state)[1])) == [(OK, BAD.flapping_name), (OK, BAD.name)]
    state = State()
    for i in range(8):
        state, alerts = observe(state, GOOD if i % 2 else BAD, i, LIMITS, silent=True)
        assert alerts == ()
    assert titles(list(catch_up(state)[1])) == [(CRITICAL, BAD.flapping_name)]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 40, allow_nan=False), st.sampled_from([BAD, GOOD, None, MATCH]), st.booleans()
        ),
        max_size=60,
    ),
    st.integers(2, 9),
)
def test_whatever_happens_the_server_ends_up_knowing_the_truth(steps, count):
    """
    Whatever is observed, silenced and when, once all is quiet the newest alert of each name tells the state,
    no flapping alert stays open, and no two flapping alerts in a row have the same level.
    """
    limits = Limits(flap_window=60, flap_count=count, expires_after=30)
    now, state = 0.0, State()
    alerts: list[Alert] = []
    for wait, seen, silent in steps:
        now += wait
        if seen is None:
            state, more = tick(state, now, limits, silent=silent)
        else:
            state, more = observe(state, seen, now, limits, silent=silent)
        alerts += more
    state, more = catch_up(state)
    alerts += more
    while (due := next_due(state, limits)) is not None:
        assert due <= now + 120
        state, more = tick(state, max(due, now), limits)
        alerts += more
    levels: dict[str, list[str]] = {}
    for alert in alerts:
        levels.setdefault(alert.name, []).append(alert.level)
    assert state.told == (state.last.level if state.last else OK)
    for name, told in levels.items():
        wanted = state.last.level if state.last and state.last.name == name else OK
        assert told[-1] == wanted, (name, told)
        if "going up and down" in name:
            assert all(a != b for a, b in pairwise(told))
    assert not state.flapping
