"""What is dropped when the outbox is full."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from mender_monitor_py.model import CRITICAL, OK
from mender_monitor_py.shedding import Losses, Waiting, cleared, identity, own_alert, surplus

# A few identities, so that pairs are found.
QUEUES = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 100)), max_size=30).map(
    lambda items: [Waiting(seq * 3 + 1, name, bad, size) for seq, (name, bad, size) in enumerate(items)]
)
BEFORE = st.sets(st.sampled_from("abc"))


def queue(text: str) -> list[Waiting]:
    """``A`` is a bad alert of a, ``a`` its OK; all of size 1."""
    return [Waiting(seq, char.lower(), char.isupper(), 1) for seq, char in enumerate(text)]


def left(text: str, count: int, bad_before: frozenset[str] = frozenset()) -> str:
    dropped = {w.seq for w in surplus(queue(text), count=count, size=1000, bad_before=bad_before)}
    return "".join(char for seq, char in enumerate(text) if seq not in dropped)


def test_the_oldest_pair_that_cancels_out_goes_before_older_alerts() -> None:
    assert left("AXaBb", 4) == "XBb"
    assert left("AXaBb", 2) == "X"


def test_then_the_oldest_go() -> None:
    assert left("ABCD", 2) == "CD"
    assert left("aBA", 2) == "BA"


def test_several_bad_alerts_go_with_the_ok_that_ends_them() -> None:
    assert left("AAaX", 3) == "X"


def test_a_pair_after_a_bad_alert_that_was_sent_does_not_cancel_out() -> None:
    """
    The server would keep the alert that was sent, as nothing ends it.
    """
    assert left("XAa", 2, frozenset("a")) == "Aa"


@given(QUEUES, st.integers(1, 30), st.integers(1, 2000), BEFORE)
def test_what_stays_is_within_the_bounds_and_in_order(
    waiting: list[Waiting], count: int, size: int, before: set[str]
) -> None:
    dropped = surplus(waiting, count=count, size=size, bad_before=before)
    kept = [record for record in waiting if record not in dropped]
    assert len(kept) <= count
    assert sum(record.size for record in kept) <= size
    assert dropped == sorted(dropped, key=lambda record: record.seq)
    if len(waiting) <= count and sum(record.size for record in waiting) <= size:
        assert not dropped


@given(QUEUES, st.integers(0, 30), BEFORE)
def test_as_long_as_pairs_suffice_the_server_ends_with_the_same_states(
    waiting: list[Waiting], count: int, before: set[str]
) -> None:
    dropped = surplus(waiting, count=count, size=10**9, bad_before=before)
    kept = [record for record in waiting if record not in dropped]
    if set(dropped) <= set(_all_pairs(waiting, before)):
        assert _states(kept, before) == _states(waiting, before)
    else:  # the oldest went too, as all pairs did not suffice
        assert set(_all_pairs(waiting, before)) <= set(dropped)


def _states(records: list[Waiting], before: set[str]) -> dict[str, bool]:
    states = {name: name in before for name in "abc"}
    for record in records:
        states[record.identity] = record.bad
    return states


def _all_pairs(waiting: list[Waiting], before: set[str]) -> list[Waiting]:
    """Naively: runs of bad alerts from a good state on, with the OK that ends them."""
    found = []
    for name in "abc":
        run: list[Waiting] = []
        bad = name in before
        usable = not bad
        for record in (w for w in waiting if w.identity == name):
            if record.bad:
                usable = usable if bad else True
                run = [*run, record] if usable else []
            else:
                found += [*run, record] if run else []
                run, usable = [], True
            bad = record.bad
    return found


def test_losses_name_the_noisiest_and_count_both_reasons() -> None:
    quiet = identity(own_alert("quiet", "x", ""))
    loud = identity(own_alert("loud", "x", ""))
    losses = Losses().plus([quiet, loud, loud]).plus([loud], old=True)
    text = losses.alert().details.description
    assert "4 alerts were dropped" in text
    assert "3 because the outbox was full" in text
    assert "1 because they were too old" in text
    assert "'loud' of 'outbox'" in text
    assert losses.alert().level == CRITICAL
    assert cleared(losses.alert()).level == OK
    assert identity(cleared(losses.alert())) == identity(losses.alert())
    assert losses.told() == Losses(ever=4)


@given(st.lists(st.text(max_size=300), max_size=60))
@example(["0"])
def test_losses_survive_being_stored_and_stay_small(names: list[str]) -> None:
    losses = Losses().plus(names)
    assert Losses.from_text(losses.to_text()) == losses
    assert losses.ever == len(names)
    assert len(losses.noisiest) <= 16
    assert losses.alert().name


def test_damaged_losses_are_none() -> None:
    assert Losses.from_text("garbage") == Losses()
    assert Losses.from_text('{"other": 1}') == Losses()
