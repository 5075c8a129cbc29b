"""What goes over the wire: alerts as JSON, the server's answers as outcomes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from mender_monitor_py.model import Alert, Details, Line, Subject

ALERT_PATH = "/api/devices/v1/devicemonitor/alert"
CONFIG_PATH = "/api/devices/v1/devicemonitor/config"

# The server takes requests of up to 1 MiB ("request_size_limit"): one alert has to fit in well.
MAX_ALERT_SIZE = 512 * 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds()
_SURROGATE = re.compile("[\ud800-\udfff]")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_CUT = " … (cut)"
_LONG_TEXT, _SHORT_TEXT = 64 * 1024, 8 * 1024


def timestamp(wall: float) -> str:
    """*wall*, seconds since the epoch, in RFC 3339 and UTC, with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=round(min(max(wall, 0.0), _LAST) * 1000))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def clean(text: str) -> str:
    """*text* as valid Unicode: a byte that was no UTF-8 (PEP 383) shows as ``\\xNN``."""
    return _SURROGATE.sub(_escaped, text)


def request_body(alert: Alert, wall: float) -> dict[str, Any]:
    """An alert as ``POST …/devicemonitor/alert`` takes it, in a list; *wall* is when it happened."""
    body = _body(_with_distinct_numbers(alert))
    return {"name": body.pop("name"), "level": body.pop("level"), "timestamp": timestamp(wall), **body}


def to_text(alert: Alert) -> str:
    """An alert to be kept: the same shape, without its time. ASCII; :func:`from_text` gives it back."""
    return _encode(_body(alert, keep=True))


def from_text(text: str | bytes) -> Alert:
    """The alert that *text* holds, a ``timestamp`` ignored. Raises ValueError when it is none."""
    try:
        body = json.loads(text)
        subject = body["subject"]
        details = subject.get("details") or {}
        matching = details.get("line_matching")
        return Alert(
            _str(body["name"]),
            _str(body["level"]),
            Subject(_str(subject["name"]), _str(subject["type"]), _str(subject["status"])),
            Details(
                _str(details.get("description", "")),
                tuple(_line(line) for line in details.get("lines_before") or ()),
                _line(matching) if matching is not None else None,
                tuple(_line(line) for line in details.get("lines_after") or ()),
            ),
        )
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not an alert: {error!r}") from error


def bounded(alert: Alert, limit: int = MAX_ALERT_SIZE) -> Alert:
    """*alert*, not longer than *limit* as text: far lines go first, then long texts are cut, visibly."""
    if len(to_text(alert)) <= limit:
        return alert
    details = alert.details
    before, after = details.lines_before, details.lines_after
    size = len(to_text(alert))
    while size > limit and (before or after):
        if len(before) >= len(after):
            gone, before = before[0], before[1:]
        else:
            gone, after = after[-1], after[:-1]
        size -= len(json.dumps({"line_number": gone.number, "data": gone.data}, separators=(",", ":"))) + 1
    alert = _with_details(alert, replace(details, lines_before=before, lines_after=after))
    for longest in (_LONG_TEXT, _SHORT_TEXT, _SHORT_TEXT // 16):
        if len(to_text(alert)) <= limit:
            break
        alert = _shortened(alert, longest)
    return alert


class Outcome(Enum):
    """What an answer means for the batch that was posted."""

    SENT = "sent"
    INVALID = "invalid"  # it will never be taken as it is
    REFUSED = "refused"  # no such service, or not for this device: wait long
    LATER = "later"  # the server is busy or broken, or does not know the device now: back off


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: its status, the start of its body, and the seconds it asks to wait."""

    status: int
    body: str = ""
    retry_after: float | None = None


def outcome(answer: Answer) -> Outcome:
    """What *answer* means, once a fresh token was tried where :func:`wants_fresh_token` says so."""
    if 200 <= answer.status < 300:
        return Outcome.SENT
    if answer.status in (400, 413, 422):
        return Outcome.INVALID
    if answer.status in (403, 404, 405):
        return Outcome.REFUSED
    return Outcome.LATER


def wants_fresh_token(answer: Answer) -> bool:
    """401: not known or not valid; 403: expired, unless it is about the add-on."""
    return answer.status == 401 or (answer.status == 403 and not needs_addon(answer))


def needs_addon(answer: Answer) -> bool:
    """Whether the server says that the tenant has not bought the monitor add-on."""
    return answer.status == 403 and "addon" in answer.body.lower()


def retry_after(header: str, now: datetime) -> float | None:
    """
    The seconds that a ``Retry-After`` header (RFC 9110, 10.2.3) asks to wait: a number or a date.

    None: it is neither.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    for form in ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"):
        try:
            moment = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return max((moment - now).total_seconds(), 0.0)
    return None


def _body(alert: Alert, *, keep: bool = False) -> dict[str, Any]:
    def text(value: str) -> str:
        return value if keep else clean(value)

    def line(value: Line) -> dict[str, Any]:
        return {"line_number": value.number, "data": text(value.data)}

    given = alert.details
    details: dict[str, Any] = {"description": text(given.description)}
    if given.lines_before:
        details["lines_before"] = [line(one) for one in given.lines_before]
    if given.line_matching is not None:
        details["line_matching"] = line(given.line_matching)
    if given.lines_after:
        details["lines_after"] = [line(one) for one in given.lines_after]
    subject = alert.subject
    return {
        "name": text(alert.name),
        "level": text(alert.level),
        "subject": {
            "name": text(subject.name),
            "type": text(subject.type),
            "status": text(subject.status),
            "details": details,
        },
    }


def _with_distinct_numbers(alert: Alert) -> Alert:
    """The server's web UI finds the line that matched by its number: no two may be the same."""
    details = alert.details
    lines = list(_lines(details))
    if len({line.number for line in lines}) == len(lines):
        return alert
    numbered = iter([Line(number, line.data) for number, line in enumerate(lines, 1)])
    return _with_details(
        alert,
        Details(
            details.description,
            tuple(next(numbered) for _ in details.lines_before),
            next(numbered) if details.line_matching is not None else None,
            tuple(numbered),
        ),
    )


def _lines(details: Details) -> Iterator[Line]:
    yield from details.lines_before
    if details.line_matching is not None:
        yield details.line_matching
    yield from details.lines_after


def _with_details(alert: Alert, details: Details) -> Alert:
    return replace(alert, details=details)


def _shortened(alert: Alert, longest: int) -> Alert:
    def cut(text: str) -> str:
        return text if len(text) <= longest else text[: longest - len(_CUT)] + _CUT

    def cut_lines(lines: Iterable[Line]) -> tuple[Line, ...]:
        return tuple(Line(line.number, cut(line.data)) for line in lines)

    matching = alert.details.line_matching
    return Alert(
        cut(alert.name),
        cut(alert.level),
        Subject(cut(alert.subject.name), cut(alert.subject.type), cut(alert.subject.status)),
        Details(
            cut(alert.details.description),
            cut_lines(alert.details.lines_before),
            Line(matching.number, cut(matching.data)) if matching is not None else None,
            cut_lines(alert.details.lines_after),
        ),
    )


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    return value


def _line(value: Any) -> Line:
    number = value["line_number"]
    if not isinstance(number, int):
        raise TypeError("line_number is not a number")
    return Line(number, _str(value["data"]))
