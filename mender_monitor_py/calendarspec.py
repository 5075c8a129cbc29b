"""
Calendar expressions, as systemd's timers have them: systemd.time(7), CALENDAR EVENTS.

``Mon..Fri *-*-* 03:00``, ``*-*-01,15 4:30``, ``*:0/15``, ``Mon *-*~07/1``, ``daily``, ``weekly UTC``. All but
fractions of a second. Pure: the time zone rules are those that datetime and zoneinfo know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from typing import Self

_WORDS = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "yearly": "*-01-01 00:00:00",
    "annually": "*-01-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    "semiannually": "*-01,07-01 00:00:00",
    "semi-annually": "*-01,07-01 00:00:00",
}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_YEARS = (1970, 2199)
# From one 29 February that is a Sunday to the next it is 40 years at most, around 2100.
_FARTHEST_YEARS = 41
_LONGEST = 500
_LARGEST_STEP = 9999
_DATE = re.compile(r"(?:(?P<year>[^-~]+)-)?(?P<month>[^-~]+)(?P<last>[-~])(?P<day>[^-~]+)")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")


@dataclass(frozen=True, slots=True)
class _Span:
    """*first* to *last* each *step*."""

    first: int
    last: int
    step: int = 1

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last and not (number - self.first) % self.step


@dataclass(frozen=True, slots=True)
class Calendar:
    """The moments that an expression names. An empty part means all there are."""

    text: str
    weekdays: frozenset[int]
    years: tuple[_Span, ...]
    months: tuple[_Span, ...]
    days: tuple[_Span, ...]
    from_end: bool  # days count from the month's last one, which is 1
    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]
    zone: tzinfo | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The calendar of *text*. Raises ValueError with a reason for the user."""
        try:
            return cls._parse(text)
        except ValueError as error:
            raise ValueError(f"{text[:80]!r} is no calendar expression: {error}") from error

    @classmethod
    def _parse(cls, text: str) -> Self:
        if len(text) > _LONGEST:
            raise ValueError("it is too long")
        words = text.split()
        zone = None
        if len(words) > 1 and (found := _zone(words[-1])) is not None:
            zone = found
            words.pop()
        if len(words) == 1 and words[0].lower() in _WORDS:
            words = _WORDS[words[0].lower()].split()
        weekdays, year, month, day, last, time = "", "*", "*", "*", "-", ""
        if words and words[0][:1].isalpha():
            weekdays = words.pop(0)
        if words and ":" not in words[0]:
            matched = _DATE.fullmatch(words.pop(0))
            if matched is None:
                raise ValueError("a date is YEAR-MONTH-DAY or MONTH-DAY")
            year, month, last, day = matched["year"] or "*", matched["month"], matched["last"], matched["day"]
        if words:
            time = words.pop(0)
        if words or not (weekdays or time or text.strip()):
            raise ValueError("it is WEEKDAYS DATE TIME ZONE, any of them left out")
        parts = time.split(":") if time else ["0", "0"]
        if len(parts) not in (2, 3):
            raise ValueError("a time is HOUR:MINUTE or HOUR:MINUTE:SECOND")
        hour, minute, second = (*parts, "0")[:3]
        return cls(
            text,
            _weekdays(weekdays),
            _spans(year, "year", *_YEARS),
            _spans(month, "month", 1, 12),
            # Each month has 28 days to count back.
            _spans(day, "day", 1, 28 if last == "~" else 31, from_end=last == "~"),
            last == "~",
            _numbers(hour, "hour", 23),
            _numbers(minute, "minute", 59),
            _numbers(second, "second", 59),
            zone,
        )

    def next(self, after: float) -> float | None:
        """The first moment later than *after*, both in seconds since the epoch. None: there is none."""
        try:
            begin = datetime.fromtimestamp(after, self.zone)
        except (OverflowError, OSError, ValueError):
            return None
        for moment in self._moments(begin.replace(tzinfo=None, fold=0)):
            found = moment.replace(tzinfo=self.zone).timestamp()
            # An hour that a clock passes twice has its moments in the first of them.
            if found > after:
                return found
        return None

    def _moments(self, begin: datetime) -> Iterator[datetime]:
        """The moments from *begin* on, as the clock on the wall shows them."""
        begin = begin.replace(microsecond=0)
        for day in self._dates(begin.date()):
            first = begin.hour if day == begin.date() else 0
            for hour in self.hours:
                if hour < first:
                    continue
                for minute in self.minutes:
                    for second in self.seconds:
                        moment = datetime(day.year, day.month, day.day, hour, minute, second)
                        if moment >= begin:
                            yield moment

    def _dates(self, begin: date) -> Iterator[date]:
        for year in range(begin.year, min(begin.year + _FARTHEST_YEARS, _YEARS[1]) + 1):
            if not _fits(year, self.years):
                continue
            for month in range(1, 13):
                if (year, month) < (begin.year, begin.month) or not _fits(month, self.months):
                    continue
                length = (date(year + month // 12, month % 12 + 1, 1) - date(year, month, 1)).days
                for number in range(1, length + 1):
                    day = date(year, month, number)
                    counted = length + 1 - number if self.from_end else number
                    if (
                        day >= begin
                        and (not self.weekdays or day.weekday() in self.weekdays)
                        and self._fits_day(counted)
                    ):
                        yield day

    def _fits_day(self, counted: int) -> bool:
        if not self.from_end:
            return _fits(counted, self.days)
        # The greater number is the earlier day, from which the steps go on.
        return not self.days or any(
            span.first <= counted <= span.last and not (span.last - counted) % span.step for span in self.days
        )


def _fits(number: int, spans: Collection[_Span]) -> bool:
    return not spans or any(number in span for span in spans)


def _zone(word: str) -> tzinfo | None:
    """The time zone that *word* names. None: it is no such word."""
    if word.upper() == "UTC":
        return UTC
    if not _ZONE.fullmatch(word) or "/" not in word or not word[0].isalpha():
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # few need it, and it is memory

    try:
        return ZoneInfo(word)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"this device does not know the time zone {word[:40]!r}") from error


def _weekdays(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dots, last = part.partition(".." if ".." in part else "-")
        begin = _weekday(first)
        end = _weekday(last) if dots else begin
        if end < begin:
            raise ValueError(f"{part[:40]!r} goes backwards")
        found.update(range(begin, end + 1))
    if text and not found:
        raise ValueError(f"{text[:40]!r} names no weekday")
    return frozenset(found)


def _weekday(word: str) -> int:
    for number, name in enumerate(_WEEKDAYS):
        if word.lower() in (name, name[:3]):
            return number
    raise ValueError(f"{word[:40]!r} is no weekday")


def _spans(text: str, what: str, least: int, most: int, *, from_end: bool = False) -> tuple[_Span, ...]:
    """What a part of an expression names; empty for ``*``."""
    if text == "*":
        return ()
    return tuple(_span(part, what, least, most, from_end=from_end) for part in text.split(","))


def _span(text: str, what: str, least: int, most: int, *, from_end: bool) -> _Span:
    bounds, slash, step_text = text.partition("/")
    first_text, dots, last_text = bounds.partition("..")
    first = _number(first_text, what, least, most)
    last = _number(last_text, what, least, most) if dots else most if slash else first
    if last < first:
        raise ValueError(f"{text[:40]!r} goes backwards")
    if not slash:
        return _Span(first, last)
    step = _number(step_text, f"step of the {what}", 1, _LARGEST_STEP)
    if not dots and step > (first - least if from_end else most - first):
        raise ValueError(f"the step of {text[:40]!r} is too big")
    return _Span(1, first, step) if from_end and not dots else _Span(first, last, step)


def _numbers(text: str, what: str, most: int) -> tuple[int, ...]:
    spans = _spans(text, what, 0, most)
    return tuple(number for number in range(most + 1) if _fits(number, spans))


def _number(text: str, what: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise ValueError(f"{text[:40]!r} is no {what}")
    number = int(text)
    if what == "year" and number < 100:
        number += 2000 if number < 70 else 1900
    if not least <= number <= most:
        raise ValueError(f"the {what} is {least} to {most}, not {number}")
    return number
