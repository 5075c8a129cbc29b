"""Halving a refused batch until the bad record stands alone."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.batching import Batches


def deliver(count: int, largest: int, takes: Callable[[list[int]], bool]) -> tuple[list[int], list[int], int]:
    """Sent, set aside, and the number of requests."""
    batches, queue = Batches(largest), list(range(count))
    sent: list[int] = []
    aside: list[int] = []
    requests = 0
    while queue:
        batch = queue[: batches.size]
        requests += 1
        assert requests < 10 * count + 10
        if takes(batch):
            batches.accepted(len(batch))
            sent += batch
            del queue[: len(batch)]
        elif batches.refused(len(batch)):
            aside.append(queue.pop(0))
    return sent, aside, requests


@given(st.integers(0, 100), st.integers(1, 30), st.sets(st.integers(0, 99)))
def test_the_valid_ones_arrive_in_order_and_the_bad_alone_are_set_aside(
    count: int, largest: int, bad: set[int]
) -> None:
    sent, aside, _ = deliver(count, largest, lambda batch: not bad.intersection(batch))
    assert sent == [n for n in range(count) if n not in bad]
    assert aside == [n for n in range(count) if n in bad]


@given(st.integers(1, 100), st.integers(1, 30), st.integers(1, 30))
def test_a_server_that_takes_fewer_at_once_loses_nothing(count: int, largest: int, limit: int) -> None:
    sent, aside, _ = deliver(count, largest, lambda batch: len(batch) <= limit)
    assert sent == list(range(count))
    assert aside == []


def test_a_thousand_alerts_are_fifty_requests() -> None:
    assert deliver(1000, 20, lambda _: True)[2] == 50


def test_one_bad_record_costs_few_requests() -> None:
    assert deliver(20, 20, lambda batch: 13 not in batch)[2] <= 10


def test_a_smaller_limit_is_learnt() -> None:
    assert deliver(1000, 20, lambda batch: len(batch) <= 10)[2] <= 105
