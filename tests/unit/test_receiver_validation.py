"""What the receiver accepts of a device, and the reasons with which it refuses."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.model import Alert, Details, Line, Subject
from mender_monitor_py.receiver import validation
from mender_monitor_py.receiver.validation import InvalidError, Limits

ALERT: dict[str, Any] = {
    "name": "Log file contains x",
    "level": "CRITICAL",
    "timestamp": "2026-01-31T12:00:00Z",
    "subject": {
        "name": "log_x",
        "type": "log",
        "status": "LOGCONTAINS",
        "details": {
            "description": "x present in /f",
            "lines_before": [{"line_number": 1, "data": ""}],
            "line_matching": {"line_number": 2, "data": "x"},
            "lines_after": [{"line_number": 3, "data": "c"}],
        },
    },
}
CONFIGS: list[dict[str, Any]] = [
    {"name": "c.sh", "type": "service", "status": "enabled", "service": {"name": "c", "type": "sysV"}},
    {"name": "a.sh", "type": "log", "status": "enabled",
     "log": {"pattern": "x", "path": "@cmd", "expire_seconds": 5}},
    {"name": "b.sh", "type": "dbus", "status": "enabled", "dbus": {"name": "b", "pattern": "", "watch": "w"}},
]  # fmt: skip
MISSING = object()


def changed(record: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """*record* with *value* at *path*; MISSING takes it away."""
    copy = deepcopy(record)
    *parents, last = path.split(".")
    here: Any = copy
    for name in parents:
        here = here[int(name)] if name.isdigit() else here[name]
    if value is MISSING:
        del here[last]
    else:
        here[last] = value
    return copy


def test_an_alert_is_read_whole() -> None:
    """
    Every field of an accepted alert arrives, and its time is seconds since the epoch.
    """
    details = Details("x present in /f", (Line(1, ""),), Line(2, "x"), (Line(3, "c"),))
    expected = Alert("Log file contains x", "CRITICAL", Subject("log_x", "log", "LOGCONTAINS"), details)
    (read,) = validation.alerts([ALERT], Limits())
    assert read.alert == expected
    assert read.timestamp == "2026-01-31T12:00:00Z"
    assert read.seconds == datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("name", MISSING, "[1].name is missing"),
        ("name", "", "[1].name is empty"),
        ("name", 7, "[1].name must be a string"),
        ("name", "x" * 5000, "longer than"),
        ("name", "\ud800", "lone surrogate"),
        ("level", "MAJOR", "[1].level must be one of"),
        ("timestamp", MISSING, "[1].timestamp is missing"),
        ("timestamp", "2026-01-31 12:00:00Z", "[1].timestamp is not an RFC 3339"),
        ("timestamp", "2026-01-31T12:00:00", "[1].timestamp is not an RFC 3339"),
        ("timestamp", "2026-02-30T12:00:00Z", "[1].timestamp"),
        ("timestamp", 1769860800, "[1].timestamp must be a string"),
        ("surprise", 1, '[1] has an unknown field "surprise"'),
        ("subject", [], "[1].subject must be an object"),
        ("subject.type", MISSING, "[1].subject.type is missing"),
        ("subject.status", None, "[1].subject.status must be a string"),
        ("subject.colour", "red", '[1].subject has an unknown field "colour"'),
        ("subject.details.lines_after", {}, "[1].subject.details.lines_after must be a list"),
        ("subject.details.line_matching", None, "[1].subject.details.line_matching must be an object"),
        ("subject.details.line_matching.line_number", 1, "line numbers must be distinct"),
        ("subject.details.lines_after.0.line_number", True, "lines_after[0].line_number must be a whole"),
        ("subject.details.lines_after.0.line_number", -1, "lines_after[0].line_number is out of range"),
        ("subject.details.lines_before.0.data", MISSING, "lines_before[0].data is missing"),
        ("subject.details.lines_before.0.text", "", "lines_before[0] has an unknown field"),
    ],
)
def test_a_bad_alert_is_named(path: str, value: object, reason: str) -> None:
    """
    One bad record refuses the request, and the reason says which record and field.
    """
    with pytest.raises(InvalidError) as refusal:
        validation.alerts([ALERT, changed(ALERT, path, value)], Limits())
    assert reason in str(refusal.value)


@pytest.mark.parametrize("value", [[], {}, "x", None, [1], [[]], [ALERT] * 3])
def test_what_is_no_list_of_few_alerts_is_refused(value: object) -> None:
    """
    The body is a list of objects, neither empty nor longer than the limit.
    """
    with pytest.raises(InvalidError):
        validation.alerts(value, Limits(records=2))


def test_levels_are_a_choice() -> None:
    """
    A receiver for a device with levels of its own can be told to take them.
    """
    validation.alerts([changed(ALERT, "level", "MAJOR")], Limits(levels=("OK", "MAJOR")))
    with pytest.raises(InvalidError):
        validation.alerts([ALERT], Limits(levels=("OK", "MAJOR")))


@pytest.mark.parametrize("count", range(4))
def test_configurations_are_accepted(count: int) -> None:
    """
    Each kind of check, and a device without any.
    """
    assert validation.configs(CONFIGS[:count], Limits()) == CONFIGS[:count]


@pytest.mark.parametrize(
    ("index", "path", "value", "reason"),
    [
        (0, "name", "crond", "[0].name must end with .sh"),
        (0, "type", "disk", "[0].type must be one of"),
        (0, "type", "log", "[0].log is missing"),
        (0, "type", ["log"], "[0].type must be a string"),
        (0, "status", "disabled", "[0].status must be"),
        (0, "service.type", "upstart", "[0].service.type must be one of"),
        (0, "log", {}, "[0] has an unknown field"),
        (1, "log.expire_seconds", "5", "[0].log.expire_seconds must be a whole number"),
        (1, "log.path", MISSING, "[0].log.path is missing"),
        (2, "dbus.interval", 1, "[0].dbus has an unknown field"),
    ],
)
def test_a_bad_configuration_is_named(index: int, path: str, value: object, reason: str) -> None:
    """
    As with alerts: which record, which field, and why.
    """
    with pytest.raises(InvalidError) as refusal:
        validation.configs([changed(CONFIGS[index], path, value)], Limits())
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[NaN]", b'{"a": 1, "a": 2}', b"[" * 100_000, b"1" * 5000, b"[1] x"],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """
    Also what Python alone takes for JSON, and what would exhaust its stack.
    """
    with pytest.raises(InvalidError):
        validation.decode(body)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-01-31T12:00:00+00:00", "2026-01-31T12:00:00Z"),
        ("2026-01-31t14:30:00+02:30", "2026-01-31T12:00:00z"),
        ("2026-01-31T12:00:00.000Z", "2026-01-31T12:00:00Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
    ],
)
def test_equal_moments(text: str, same: str) -> None:
    """
    Zones, fractions and leap seconds are understood.
    """
    assert validation.timestamp(text) == validation.timestamp(same)


@given(st.integers(0, 253_402_300_799))
def test_times_survive_the_round_trip(seconds: int) -> None:
    """
    A time that is written as RFC 3339 is read as the same.
    """
    assert validation.timestamp(validation.rfc3339(seconds)) == seconds


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "level", "timestamp", "subject", "type", "log", "x"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_judged(value: object) -> None:
    """
    Whatever a device sends is accepted or refused with a reason, never a crash.
    """
    for judge in (validation.alerts, validation.configs):
        try:
            judge(validation.decode(json.dumps(value).encode()), Limits())
        except InvalidError as refusal:
            assert str(refusal)
