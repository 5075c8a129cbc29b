"""Alerts as JSON, and what the server's answers mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import wire
from mender_monitor_py.model import Alert, Details, Line, Subject
from mender_monitor_py.wire import Answer, Outcome

TEXT = st.text(st.characters(), max_size=50)  # surrogates and control characters too
LINES = st.lists(st.builds(Line, st.integers(-5, 5), TEXT), max_size=4).map(tuple)
ALERTS = st.builds(
    Alert,
    TEXT,
    TEXT,
    st.builds(Subject, TEXT, TEXT, TEXT),
    st.builds(Details, TEXT, LINES, st.none() | st.builds(Line, st.integers(-5, 5), TEXT), LINES),
)


def test_the_body_is_what_the_contract_shows() -> None:
    alert = Alert(
        "Service cron not running",
        "CRITICAL",
        Subject("cron", "service", "not-running"),
        Details("…", (Line(1, "a"), Line(2, "b")), Line(3, ""), (Line(4, "d"),)),
    )
    assert wire.request_body(alert, 1769860800) == {
        "name": "Service cron not running",
        "level": "CRITICAL",
        "timestamp": "2026-01-31T12:00:00.000Z",
        "subject": {
            "name": "cron",
            "type": "service",
            "status": "not-running",
            "details": {
                "description": "…",
                "lines_before": [{"line_number": 1, "data": "a"}, {"line_number": 2, "data": "b"}],
                "line_matching": {"line_number": 3, "data": ""},
                "lines_after": [{"line_number": 4, "data": "d"}],
            },
        },
    }


@given(ALERTS, st.floats(allow_nan=False, allow_infinity=False))
def test_every_alert_makes_valid_utf8_json_with_distinct_line_numbers(alert: Alert, wall: float) -> None:
    body = wire.request_body(alert, wall)
    again = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8"))
    details = again["subject"]["details"]
    lines = [*details.get("lines_before", []), *details.get("lines_after", [])]
    if "line_matching" in details:
        lines.append(details["line_matching"])
    numbers = [line["line_number"] for line in lines]
    assert len(set(numbers)) == len(numbers)
    assert datetime.fromisoformat(again["timestamp"]).tzinfo == UTC


@given(ALERTS)
def test_a_kept_alert_comes_back_as_it_was(alert: Alert) -> None:
    assert wire.from_text(wire.to_text(alert)) == alert


@given(
    st.text(max_size=40)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(json.dumps)
)
def test_what_is_no_alert_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        wire.from_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"name": 1, "level": "OK", "subject": {"name": "", "type": "", "status": ""}}',
        '{"name": "a", "level": "OK", "subject": {"name": "", "type": "", "status": "",'
        ' "details": {"line_matching": {"line_number": "1", "data": ""}}}}',
    ],
)
def test_a_damaged_alert_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not an alert"):
        wire.from_text(text)


def test_bytes_that_are_no_utf8_are_shown_escaped() -> None:
    assert wire.clean(b"caf\xe9 \xff".decode(errors="surrogateescape")) == "caf\\xe9 \\xff"
    assert wire.clean("a\ud800b") == "a\\ud800b"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3000), st.integers(0, 4000))
def test_a_huge_alert_is_cut_to_the_limit_and_keeps_its_match(
    before: int, after: int, long: int, description: int
) -> None:
    limit = 10_000
    details = Details(
        "d" * description,
        tuple(Line(n, "x" * long) for n in range(before)),
        Line(100, "the match"),
        tuple(Line(200 + n, "y" * long) for n in range(after)),
    )
    alert = Alert("n", "CRITICAL", Subject("s", "log", "x"), details)
    small = wire.bounded(alert, limit)
    assert len(wire.to_text(small)) <= limit
    assert small.details.line_matching == Line(100, "the match")
    # the lines next to the match are the ones that stay
    assert small.details.lines_before == details.lines_before[before - len(small.details.lines_before) :]
    assert small.details.lines_after == details.lines_after[: len(small.details.lines_after)]
    if len(wire.to_text(alert)) <= limit:
        assert small == alert


def test_long_texts_are_cut_visibly() -> None:
    huge = "x" * 2_000_000
    alert = Alert(huge, "CRITICAL", Subject(huge, huge, huge), Details(huge, (), Line(1, huge), ()))
    small = wire.bounded(alert)
    assert len(wire.to_text(small)) <= wire.MAX_ALERT_SIZE
    assert small.name.endswith("… (cut)")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (204, "", Outcome.SENT),
        (200, "", Outcome.SENT),
        (400, "", Outcome.INVALID),
        (413, "", Outcome.INVALID),
        (401, "", Outcome.LATER),
        (403, '{"error":"operation requires addon: monitor"}', Outcome.REFUSED),
        (403, "", Outcome.REFUSED),
        (404, "", Outcome.REFUSED),
        (302, "", Outcome.LATER),
        (408, "", Outcome.LATER),
        (429, "", Outcome.LATER),
        (500, "", Outcome.LATER),
        (503, "", Outcome.LATER),
    ],
)
def test_outcomes(status: int, body: str, expected: Outcome) -> None:
    assert wire.outcome(Answer(status, body)) is expected


def test_a_fresh_token_may_help_with_401_and_an_expired_token_only() -> None:
    assert wire.wants_fresh_token(Answer(401))
    assert wire.wants_fresh_token(Answer(403, '{"error":"token expired"}'))
    assert not wire.wants_fresh_token(Answer(403, '{"error":"operation requires addon: monitor"}'))
    assert not wire.wants_fresh_token(Answer(500))


NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        (" 0 ", 0.0),
        ("Sat, 31 Jan 2026 12:00:30 GMT", 30.0),
        ("Saturday, 31-Jan-26 12:00:30 GMT", 30.0),
        ("Sat Jan 31 12:00:30 2026", 30.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert wire.retry_after(header, NOW) == seconds


@given(st.text(max_size=60))
def test_any_retry_after_header_is_survived(header: str) -> None:
    seconds = wire.retry_after(header, NOW)
    assert seconds is None or seconds >= 0
