"""Whose traffic it was, and what is said of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.trafficreport import amount, describe, headline, span
from mender_monitor_py.trafficshares import MAX_SHARES, Shares, Who
from mender_monitor_py.trafficwindow import Bytes


def who(name: str, *, own: bool = False) -> Who:
    return Who(("program", name), f"/bin/{name}", (f"pid: {name}",), own)


def test_those_with_the_most_first_and_no_longer_than_the_window():
    shares = Shares(600.0, 20.0)
    shares.add(who("early"), 0.0, 10.0, Bytes(0, 900))
    shares.add(who("a"), 500.0, 510.0, Bytes(5, 100))
    shares.add(who("b"), 500.0, 510.0, Bytes(900, 50))
    shares.add(who("a"), 510.0, 520.0, Bytes(0, 60))
    assert [share.who.label for share in shares.top(520.0, "tx")] == ["/bin/early", "/bin/a", "/bin/b"]
    assert [share.who.label for share in shares.top(520.0, "rx")] == ["/bin/b", "/bin/a"]
    assert [share.sum.sent for share in shares.top(700.0, "tx")] == [160, 50]
    assert shares.top(2000.0, "both") == []


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 10**9)), max_size=200))
def test_there_are_only_so_many_and_the_biggest_stays(added):
    shares, most = Shares(600.0, 20.0), 10**12
    shares.add(who("big"), 0.0, 1.0, Bytes(0, most))
    for number, sent in added:
        shares.add(who(str(number)), 0.0, 1.0, Bytes(0, sent))
    found = shares.top(1.0, "tx")
    assert len(found) <= MAX_SHARES
    assert found[0].who.label == "/bin/big"


def test_what_a_person_reads():
    shares = Shares(3600.0, 20.0)
    for n in range(5):
        shares.add(who(str(n), own=n == 3), 0.0, 10.0, Bytes(7, 1024 * (n + 1)))
    total = Bytes(100, 20 * 1024)
    assert headline("wwan0", total, "tx", 3600.0, 10240) == "20.0K sent over wwan0 within 1h, limit 10.0K"
    lines = describe(total, Bytes(0, 2048), 3600.0, "tx", shares.top(10.0, "tx"))
    assert lines == [
        "sent: 20480 bytes, received: 100 bytes",
        "rate: 2.0K a second now, 6 a second on average",
        "this monitor itself: 4.0K; its own sending counts",
        "1. /bin/4: 5.0K sent, 7 received",
        "   pid: 4",
        "2. /bin/3 (this monitor itself): 4.0K sent, 7 received",
        "   pid: 3",
        "3. /bin/2: 3.0K sent, 7 received",
        "   pid: 2",
        "2 others: 3.0K",
        "not attributed: 5.0K (UDP, ICMP, headers, what is forwarded, what was not seen in time)",
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1024, "1.0K"), (150 * 1024, "150K"), (2**60, "1024P")]
)
def test_amounts(count, text):
    assert amount(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(90, "90s"), (120, "2m"), (3600, "1h"), (172_800, "2d")])
def test_spans(seconds, text):
    assert span(seconds) == text
