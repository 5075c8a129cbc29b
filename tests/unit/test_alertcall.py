"""The arguments of monitor_send_alert."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import alertcall, wire
from mender_monitor_py.model import Alert, Details, Line, Subject

NEEDED = ["CRITICAL", "name", "details", "subject", "status", "type"]


def call(*arguments: str | bytes) -> bytes:
    return b"".join((a.encode() if isinstance(a, str) else a) + b"\0" for a in arguments)


def test_six_arguments_are_an_alert_without_lines():
    assert alertcall.parse(call(*NEEDED)) == Alert(
        "name", "CRITICAL", Subject("subject", "type", "status"), Details("details")
    )


def test_the_lines_are_numbered_from_the_first_before_to_the_last_after():
    alert = alertcall.parse(call(*NEEDED, "", "", "a\n\nb\n", "match\n", "c"))

    assert alert.details.lines_before == (Line(1, "a"), Line(2, ""), Line(3, "b"))
    assert alert.details.line_matching == Line(4, "match")
    assert alert.details.lines_after == (Line(5, "c"),)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("", "", "", "", ""), Details("details")),
        (("", "", "\n"), Details("details", (Line(1, ""),), Line(2, ""))),
        (("", "", "", "m"), Details("details", (), Line(1, "m"))),
        (("", "", "", "", "a"), Details("details", (), Line(1, ""), (Line(2, "a"),))),
        (("P.*", "/var/log/f"), Details("details (P.* in /var/log/f)")),
        (("", "/var/log/f"), Details("details (/var/log/f)")),
        (("det", "ails"), Details("details")),
    ],
)
def test_the_optional_arguments(more, expected):
    """Empty ones are as good as none; pattern and file are said once, where the description does not."""
    assert alertcall.parse(call(*NEEDED, *more)).details == expected


def test_more_than_eleven_arguments_are_not_an_error():
    assert alertcall.parse(call(*NEEDED, "p", "f", "b", "m", "a", "x", "y")) == alertcall.parse(
        call(*NEEDED, "p", "f", "b", "m", "a")
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        call(*NEEDED[:5]),
        call("", *NEEDED[1:]),
        call("OK", "", *NEEDED[2:]),
        call("OK", "name", "details", "", "status", "type"),
        call("OK", "x" * alertcall.MAX_SIZE, *NEEDED[2:]),
    ],
)
def test_what_is_no_alert_is_refused_with_a_reason(data):
    with pytest.raises(ValueError, match=r"are needed|must not be empty|more than"):
        alertcall.parse(data)


anything = st.binary(max_size=40).filter(lambda data: b"\0" not in data)


@given(st.lists(anything, min_size=6, max_size=11))
def test_whatever_the_arguments_hold_the_json_is_valid(arguments):
    """Bytes that are no text included; each line has a number of its own."""
    arguments[0], arguments[1], arguments[3] = b"OK", arguments[1] or b"n", arguments[3] or b"s"
    alert = alertcall.parse(call(*arguments))

    body = json.loads(json.dumps(wire.request_body(alert, 0.0)).encode("utf-8", "strict"))

    details = body["subject"]["details"]
    lines = [*details.get("lines_before", []), *details.get("lines_after", [])]
    lines += [details["line_matching"]] if "line_matching" in details else []
    assert len({line["line_number"] for line in lines}) == len(lines)
    assert alert == wire.from_text(wire.to_text(alert))
