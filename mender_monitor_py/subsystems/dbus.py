"""
Messages on the D-Bus system bus.

The match rule is the bus's to apply (BecomeMonitor). The pattern is matched against each line of the text
that ``dbus-monitor`` prints, as if that were piped into ``grep``.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque

from mender_monitor_py import duration, matchrule
from mender_monitor_py.busformat import SIGNAL, Header, message_lines
from mender_monitor_py.host.busmonitor import BusMonitor
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.pattern import compile_pattern
from mender_monitor_py.model import Details, Line, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report

STATUS = "DBUS_SIGNAL_ARRIVED"

# While the check is bad a further match only renews it: one a second is enough. What arrives in between is
# not read, but the newest few are kept for the next look.
_RENEWAL_S = 1.0
_KEPT = 32
_LONGEST_LINE = 2048


def _pattern(text: str) -> str:
    if text:
        compile_pattern(text)
    return text


def _rule(text: str) -> str:
    matchrule.parse(text)
    return text


_LABEL = Field("DBUS_NAME", str, "a label for the alerts; the check's name if empty", argument="DBUS_NAME")
_PATTERN = Field(
    "DBUS_PATTERN",
    _pattern,
    "what a line of the message contains, as dbus-monitor prints it; all if empty",
    argument="DBUS_PATTERN",
)
_WATCH = Field(
    "DBUS_WATCH_EXPRESSION",
    _rule,
    "a D-Bus match rule; all messages if empty",
    argument="DBUS_WATCH_EXPRESSION",
)
_EXPIRATION = Field(
    "DBUS_ALERT_EXPIRATION",
    duration.seconds,
    "seconds (or with s, m, h, d) without a match until it is OK again; 0: never",
    argument="EXPIRATION",
    aliases=("DBUS_PATTERN_EXPIRATION",),
)


class DbusCheck(Check):
    """A message with DBUS_PATTERN in it that DBUS_WATCH_EXPRESSION selects was sent on the system bus."""

    subsystem = "dbus"
    summary = "a message on the D-Bus system bus"
    fields = (_LABEL, _PATTERN, _WATCH, _EXPIRATION)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self._label: str = definition.value(_LABEL) or definition.check.name
        self._pattern: str = definition.value(_PATTERN)
        self._watch: str = definition.value(_WATCH)
        if not self._pattern and not self._watch.strip():
            raise definition.error(
                _PATTERN.name, f"this and {_WATCH.name} are empty: every message of the bus would match"
            )
        self._expires: float = settings.default_dbus_alert_expiration_seconds
        if definition.text(_EXPIRATION):
            self._expires = definition.value(_EXPIRATION)
        self._compiled = compile_pattern(self._pattern) if self._pattern else None

    @property
    def expires_after(self) -> float | None:
        return self._expires or None

    async def run(self, host: Host, report: Report) -> None:
        loop = asyncio.get_running_loop()
        waiting: deque[tuple[bytes, Header, float]] = deque(maxlen=_KEPT)
        look_again: asyncio.TimerHandle | None = None

        def take(raw: bytes, header: Header) -> None:
            if look_again is None:
                judge(raw, header, time.time())
            else:
                waiting.append((raw, header, time.time()))

        def judge(raw: bytes, header: Header, at: float) -> bool:
            nonlocal look_again
            seen = self._observation(raw, header, at)
            if seen is None:
                return False
            report.observe(seen)
            if look_again is None and report.is_bad():
                look_again = loop.call_later(self._renewal, look)
            return True

        def look() -> None:
            nonlocal look_again
            look_again = None
            while waiting and not judge(*waiting.pop()):
                pass
            waiting.clear()

        def tell(reason: str) -> None:
            if reason:
                report.unknown(reason)
            else:
                report.known()

        try:
            await BusMonitor(host.bus, [self._watch], take).run(tell)
        finally:
            if look_again is not None:
                look_again.cancel()

    @property
    def _renewal(self) -> float:
        return min(_RENEWAL_S, self._expires / 2) if self._expires else _RENEWAL_S

    def _observation(self, raw: bytes, header: Header, at: float) -> Observation | None:
        """What to report of a message. None: the pattern is not in it."""
        lines = message_lines(raw, header, at)
        matching = 0
        if self._compiled is not None:
            text = b"\n".join(lines)
            found = self._compiled.find(text)
            if found is None:
                return None
            matching = text.count(b"\n", 0, found[0])
        where = self._watch or "system bus"
        return Observation(
            level=self.settings.default_dbus_alert_level,
            name=f"D-Bus signal arrived on bus {where}",
            subject=Subject(self._label, "dbus", STATUS),
            details=self._details(lines, matching, header),
            event=True,
            cleared=f"No further message within {self._expires:g} s",
        )

    def _details(self, lines: list[bytes], matching: int, header: Header) -> Details:
        before, after = self.settings.default_log_lines_before, self.settings.default_log_lines_after
        first = max(matching - before, 0)
        shown = [Line(n + 1, readable(lines[n])) for n in range(first, min(matching + after + 1, len(lines)))]
        kind = "signal" if header.type == SIGNAL else "message"
        named = ".".join(part for part in (header.interface, header.member or header.error_name) if part)
        pattern = f", which contains {self._pattern}" if self._pattern else ""
        middle = matching - first
        return Details(
            description=f"The {kind} {named or 'without a name'} from {header.sender or 'the bus'}{pattern}",
            lines_before=tuple(shown[:middle]),
            line_matching=shown[middle],
            lines_after=tuple(shown[middle + 1 :]),
        )


# The update client's JwtTokenStateChange carries the device's token: RFC 7519, three base64url parts.
_TOKEN = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*")


def readable(line: bytes) -> str:
    """A line for people: control characters escaped, tokens taken out, and of a bearable length."""
    text = _TOKEN.sub("(token)", line.decode(errors="backslashreplace"))
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + "..."


CHECK = DbusCheck
