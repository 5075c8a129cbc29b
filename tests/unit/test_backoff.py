"""How long to wait, and how many requests a minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.backoff import Budget, Pace, delay

PACE = Pace(60, 3600)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_delay_has_full_jitter_and_a_cap(failures: int, chance: float) -> None:
    wait = delay(failures, PACE, chance)
    assert 1 <= wait <= 3600
    assert wait <= max(60 * 2 ** min(failures - 1, 30), 1)


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    assert [delay(n, PACE, 1.0) for n in range(1, 9)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert delay(3, PACE, 0.5) == 120


def test_without_a_cap_the_interval_alone_counts() -> None:
    assert {delay(n, Pace(60, 0), chance) for n in (1, 5, 50) for chance in (0.0, 1.0)} == {60}


def test_never_sooner_than_the_server_asks_and_not_for_years() -> None:
    assert delay(1, PACE, 0.0, retry_after=500) == 500
    assert delay(8, PACE, 1.0, retry_after=5) == 3600
    assert delay(1, PACE, 0.0, retry_after=1e12) == 86_400


@given(st.integers(1, 60), st.lists(st.floats(0, 50), min_size=1, max_size=150))
def test_no_minute_has_more_requests_than_allowed(per_minute: int, pauses: list[float]) -> None:
    """
    Whoever asks whenever, and waits as told, never makes more than so many requests within 60 s.
    """
    budget = Budget(per_minute)
    now, made = 0.0, []
    for pause in pauses:
        now += pause
        now += budget.wait(now)
        budget.spend(now)
        made.append(now)
    for start in made:
        assert sum(start <= moment < start + 59.999 for moment in made) <= per_minute


def test_a_single_request_does_not_wait_and_zero_is_no_limit() -> None:
    assert Budget(30).wait(1000.0) == 0
    free = Budget(0)
    for _ in range(1000):
        assert free.wait(5.0) == 0
        free.spend(5.0)


def test_what_one_post_took_counts_in_full() -> None:
    budget = Budget(30)
    budget.spend(0.0, 12)
    assert budget.wait(0.0) > 0
