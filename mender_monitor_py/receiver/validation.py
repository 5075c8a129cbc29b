"""
What a device may send, judged strictly: alerts and check configurations.

A field that is missing, of the wrong type or unknown is refused with a reason that names the record
(counted from 0, as in the list) and the field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from mender_monitor_py.model import Alert, Details, Line, Subject

# From good to bad: the specification has OK and CRITICAL, the server's web page draws all four.
LEVELS = ("OK", "WARNING", "CRITICAL", "CRITICAL_FLAPPING")
MAX_RECORDS = 100
MAX_NAME = 4096
MAX_LINES = 1000

# RFC 3339 section 5.6, date-time.
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
# Of each type: the required fields, and the optional ones, with their types.
_CONFIG_OBJECTS: dict[str, tuple[dict[str, type], dict[str, type]]] = {
    "service": ({"name": str, "type": str}, {}),
    "log": ({"pattern": str, "path": str}, {"expire_seconds": int}),
    "dbus": ({"name": str, "pattern": str, "watch": str}, {"alert_expiration": int}),
}
_SERVICE_TYPES = ("systemd", "sysV")
_TYPE_NAMES = {str: "a string", int: "a whole number", dict: "an object", list: "a list"}


class InvalidError(Exception):
    """The request cannot be accepted; the message says which record and field, and why."""


@dataclass(frozen=True)
class Limits:
    """How many records one request may hold, and which levels an alert may have."""

    records: int = MAX_RECORDS
    levels: tuple[str, ...] = LEVELS


MAX_ATTRIBUTES = 100


@dataclass(frozen=True)
class TimedAlert:
    """An alert and its time: as it was sent, and in seconds since the epoch."""

    alert: Alert
    timestamp: str
    seconds: float


def decode(body: bytes) -> object:
    """The JSON value of *body*. Raises InvalidError for anything that is not UTF-8 or not JSON."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"not valid JSON: {error}") from error


def alerts(value: object, limits: Limits) -> list[TimedAlert]:
    """The alerts of a request to ``/alert``. Raises InvalidError."""
    records = _records(value, limits)
    if not records:
        raise InvalidError("the list is empty")
    return [_alert(f"[{index}]", record, limits) for index, record in enumerate(records)]


def configs(value: object, limits: Limits) -> list[dict[str, Any]]:
    """The check configurations of a request to ``/config``; there may be none. Raises InvalidError."""
    return [_config(f"[{index}]", record) for index, record in enumerate(_records(value, limits))]


def attributes(value: object) -> dict[str, str | list[str]]:
    """
    The inventory attributes of a request, by name: strings, or lists of them. Raises InvalidError.

    A device may have MAX_ATTRIBUTES of them, as at the server.
    """
    if not isinstance(value, list) or len(value) > MAX_ATTRIBUTES:
        raise InvalidError(f"not a list of at most {MAX_ATTRIBUTES} attributes")
    found: dict[str, str | list[str]] = {}
    for index, one in enumerate(value):
        name, what = (one.get("name"), one.get("value")) if isinstance(one, dict) else (None, None)
        texts = what if isinstance(what, list) else [what]
        if not (isinstance(name, str) and name and all(isinstance(text, str) for text in texts)):
            raise InvalidError(f"[{index}] is no attribute with a name and a value")
        found[name] = what  # type: ignore[assignment]
    return found


def timestamp(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 date-time. Raises ValueError."""
    found = _TIMESTAMP.fullmatch(text)
    if not found:
        raise ValueError("is not an RFC 3339 date and time")
    day, time, fraction, zone = found.groups()
    # A leap second is the end of its minute: datetime does not know second 60.
    leap = time.endswith(":60")
    parsed = datetime.fromisoformat(f"{day}T{time[:-2] + '59' if leap else time}{zone.upper()}")
    return parsed.timestamp() + leap + (float(f"0.{fraction}") if fraction else 0.0)


def rfc3339(seconds: float) -> str:
    """*seconds* since the epoch as an RFC 3339 date-time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice in one object")
    return fields


def _records(value: object, limits: Limits) -> list[object]:
    if not isinstance(value, list):
        raise InvalidError("the body must be a list")
    if len(value) > limits.records:
        raise InvalidError(f"{len(value)} records in one request, at most {limits.records} are accepted")
    return value


def _alert(where: str, value: object, limits: Limits) -> TimedAlert:
    record = _object(where, value, required=("name", "level", "timestamp", "subject"))
    name = _text(f"{where}.name", record["name"])
    level = _text(f"{where}.level", record["level"])
    if level not in limits.levels:
        raise InvalidError(f"{where}.level must be one of {', '.join(limits.levels)}")
    when = _text(f"{where}.timestamp", record["timestamp"])
    try:
        seconds = timestamp(when)
    except (ValueError, OverflowError) as error:
        raise InvalidError(f"{where}.timestamp {error}") from error
    where = f"{where}.subject"
    subject = _object(where, record["subject"], required=("name", "type", "status"), optional=("details",))
    texts = [_text(f"{where}.{field}", subject[field]) for field in ("name", "type", "status")]
    details = _details(f"{where}.details", subject["details"]) if "details" in subject else Details()
    return TimedAlert(Alert(name, level, Subject(*texts), details), when, seconds)


def _details(where: str, value: object) -> Details:
    optional = ("description", "lines_before", "line_matching", "lines_after")
    fields = _object(where, value, optional=optional)
    description = _typed(f"{where}.description", fields.get("description", ""), str)
    before = _lines(f"{where}.lines_before", fields.get("lines_before", []))
    after = _lines(f"{where}.lines_after", fields.get("lines_after", []))
    matching = _line(f"{where}.line_matching", fields["line_matching"]) if "line_matching" in fields else None
    numbers = [line.number for line in (*before, *([matching] if matching else []), *after)]
    if len(set(numbers)) != len(numbers):
        raise InvalidError(f"{where}: the line numbers must be distinct")
    return Details(description, before, matching, after)


def _lines(where: str, value: object) -> tuple[Line, ...]:
    lines = _typed(where, value, list)
    if len(lines) > MAX_LINES:
        raise InvalidError(f"{where} has {len(lines)} lines, at most {MAX_LINES} are accepted")
    return tuple(_line(f"{where}[{index}]", line) for index, line in enumerate(lines))


def _line(where: str, value: object) -> Line:
    fields = _object(where, value, required=("line_number", "data"))
    number = _whole(f"{where}.line_number", fields["line_number"])
    return Line(number, _typed(f"{where}.data", fields["data"], str))


def _config(where: str, value: object) -> dict[str, Any]:
    unjudged: dict[str, Any] = _typed(where, value, dict)
    kind = _text(f"{where}.type", unjudged.get("type", ""))
    if kind not in _CONFIG_OBJECTS:
        raise InvalidError(f"{where}.type must be one of {', '.join(_CONFIG_OBJECTS)}")
    record = _object(where, value, required=("name", "type", "status", kind))
    if not _text(f"{where}.name", record["name"]).endswith(".sh"):
        raise InvalidError(f"{where}.name must end with .sh")
    if record["status"] != "enabled":
        raise InvalidError(f'{where}.status must be "enabled"')
    where = f"{where}.{kind}"
    required, optional = _CONFIG_OBJECTS[kind]
    fields = _object(where, record[kind], required=tuple(required), optional=tuple(optional))
    for name, content in fields.items():
        if (required | optional)[name] is int:
            _whole(f"{where}.{name}", content)
        else:
            _typed(f"{where}.{name}", content, str)
    if kind == "service" and fields["type"] not in _SERVICE_TYPES:
        raise InvalidError(f"{where}.type must be one of {', '.join(_SERVICE_TYPES)}")
    return record


def _object(
    where: str, value: object, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    fields: dict[str, Any] = _typed(where, value, dict)
    for name in required:
        if name not in fields:
            raise InvalidError(f"{where}.{name} is missing")
    for name in fields:
        if name not in required and name not in optional:
            raise InvalidError(f"{where} has an unknown field {json.dumps(name[:80])}")
    return fields


def _text(where: str, value: object) -> str:
    text: str = _typed(where, value, str)
    if not text:
        raise InvalidError(f"{where} is empty")
    if len(text) > MAX_NAME:
        raise InvalidError(f"{where} is longer than {MAX_NAME} characters")
    return text


def _whole(where: str, value: object) -> int:
    number: int = _typed(where, value, int)
    if not 0 <= number < 2**63:
        raise InvalidError(f"{where} is out of range")
    return number


def _typed(where: str, value: object, wanted: type) -> Any:
    # bool is an int in Python, in JSON it is not.
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InvalidError(f"{where} must be {_TYPE_NAMES[wanted]}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidError(f"{where} holds half a character (a lone surrogate)") from error
    return value
