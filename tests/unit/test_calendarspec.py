"""Calendar expressions mean what systemd says that they mean: systemd-analyze(1) is the judge."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py.calendarspec import Calendar

BASE = datetime(2026, 11, 25, 19, 0, 0, tzinfo=UTC)
ELAPSES = re.compile(r"(?:Next elapse|Iter\. #\d+): (?:\w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)|(never)|.*)")

EXPRESSIONS = [
    "minutely", "hourly", "daily", "monthly", "weekly", "yearly", "annually", "quarterly", "semiannually",
    "Mon..Fri *-*-1/2 3:00", "mon,wed..fri 2,14:0/30", "Sun", "Mon, 3:00", "Mon-Fri", "*:0/15", "10-15",
    "*-*~01", "Mon *-05~07/1", "*-*~05/2", "*-*~15/14",
    "*:01..05/99", "*:0/59", "1..3-1", "*-*-1..10/3", "*:1..3,10..20/5", "0:0:0/7",
    "2026/2-1-1", "*-1/6-1", "26-1-1", "*-02-29", "Sun *-02-29", "*-02-30", "*-*-31", "2027-03-04 05:06:07",
    "Mon..Wed,Tue", "*-*-* *:*:*", "12..14:10,20,30", "*-04,06-31", "daily UTC", "Sat,Sun 12:05",
]  # fmt: skip
NONSENSE = [
    "", " ", "*:*/5", "*-*-*/2", "*-02~03..01", "2026-*-* 25:00", "*-*-* 3", "Mon Tue", "Mon..", "Sat..Mon",
    "*:5..1", "*:0/0", "*:70", "*-*-31/1", "10:00 Europe/Nowhere", "*-*~0", "*-0-1", "*:0/90", "1d",
    "2026-11", "12", "daily daily", "*-*-*-* 1:00", "1:2:3:4", "-1:00", "foo", ",", "\u0661:00",
    "1:00 UTC UTC",
    "*-*~29", "*-*~1/1", "*:1/59",
]  # fmt: skip


def analyzed(expression: str, count: int) -> list[float] | None:
    """The next moments by systemd-analyze; None: it refuses the expression."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: nobody to compare with")
    done = subprocess.run(
        ["systemd-analyze", "calendar", f"--iterations={count}",
         f"--base-time={BASE:%Y-%m-%d %H:%M:%S UTC}", "--", expression],
        capture_output=True, text=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}, check=False,
    )  # fmt: skip
    if done.returncode:
        assert "Failed to parse calendar" in done.stderr, (done.returncode, done.stderr)
        return None
    found = [match[1] for match in ELAPSES.finditer(done.stdout) if match[1]]
    return [datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in found]


def ours(expression: str, count: int) -> list[float]:
    calendar = Calendar.parse(expression if "UTC" in expression else f"{expression} UTC")
    found: list[float] = []
    after: float | None = BASE.timestamp()
    while after is not None and len(found) < count:
        after = calendar.next(after)
        found += [] if after is None else [after]
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_next_moments_are_those_of_systemd(expression: str) -> None:
    assert ours(expression, 4) == analyzed(expression, 4)


@pytest.mark.parametrize("expression", NONSENSE)
def test_what_systemd_refuses_is_refused_with_a_reason(expression: str) -> None:
    if expression.strip():
        assert analyzed(expression, 1) is None
    with pytest.raises(ValueError, match="is no calendar expression: "):
        Calendar.parse(expression)


def part(least: int, most: int) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    spans = st.tuples(number, number).map(lambda pair: f"{min(pair)}..{max(pair)}")
    steps = st.tuples(number, number).map(lambda pair: f"{pair[0]}/{pair[1]}")
    one = st.one_of(number.map(str), spans, steps)
    return st.one_of(st.just("*"), st.lists(one, min_size=1, max_size=2).map(",".join))


def is_right_in_systemd(parts: tuple[str, ...]) -> bool:
    """
    Systemd 252 counts a step of days on over the end of a month, where it looks for a weekday: "Fri *-*-1/7"
    leaves out 1 January 2027, a Friday.
    """
    weekday, _, _, day, *_ = parts
    return not (weekday and "/" in day)


EXPRESSION = st.tuples(
    st.sampled_from(["", "Mon ", "Tue,Sat ", "Wed..Fri "]),
    part(1, 12), st.sampled_from("-~"), part(1, 31), part(0, 23), part(0, 59),
).filter(is_right_in_systemd).map(lambda p: f"{p[0]}*-{p[1]}{p[2]}{p[3]} {p[4]}:{p[5]}")  # fmt: skip


@settings(max_examples=40)
@given(EXPRESSION)
def test_any_expression_means_what_systemd_says(expression: str) -> None:
    wanted = analyzed(expression, 2)
    if wanted is None:
        if "~" in expression:
            return  # of lists that count from the end of a month systemd refuses some, as *-*~1,26
        with pytest.raises(ValueError, match="is no calendar expression: "):
            Calendar.parse(expression)
    else:
        assert ours(expression, 2) == wanted


@given(st.text(max_size=40))
def test_any_text_is_a_calendar_or_an_error(text: str) -> None:
    try:
        calendar = Calendar.parse(text)
    except ValueError:
        return
    following = calendar.next(BASE.timestamp())
    assert following is None or following > BASE.timestamp()


def test_summer_time_in_a_zone_of_its_own() -> None:
    """
    An hour that is not there moves on; one that comes twice counts once.
    """
    calendar = Calendar.parse("02:30 Europe/Berlin")

    def following(text: str) -> str:
        found = calendar.next(datetime.fromisoformat(text).timestamp())
        assert found is not None
        return datetime.fromtimestamp(found, UTC).isoformat()

    assert following("2026-03-28T12:00+00:00") == "2026-03-29T01:30:00+00:00"
    assert following("2026-03-29T01:30+00:00") == "2026-03-30T00:30:00+00:00"
    assert following("2026-10-24T12:00+00:00") == "2026-10-25T00:30:00+00:00"
    assert following("2026-10-25T00:30+00:00") == "2026-10-26T01:30:00+00:00"
