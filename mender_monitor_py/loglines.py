"""Lines of a log as an alert shows them: readable, and bounded in size."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mender_monitor_py.model import Details, Line

LINE = 65_536  # bytes of a line that are looked at
MOST_BYTES = 128 * 1024  # of all lines of an alert together, as JSON
_MATCH_BYTES = MOST_BYTES // 2
_CONTEXT_BYTES = 4096  # of a line around the match
_CUT = " [cut]"
# Control characters but the tab: C0, DEL and C1
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def shown(line: bytes) -> str:
    r"""*line* as text. What is not UTF-8 and control characters are escaped: ``\xff``, ``\x00``."""
    text = line.removesuffix(b"\r").decode(errors="backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def details(
    description: str,
    before: Sequence[bytes],
    match: bytes,
    after: Sequence[bytes],
    *,
    number: int | None = None,
    cut: bool = False,
) -> Details:
    """
    What an alert says of a line and of those around it.

    *number* is the line's place in its log; without it lines are counted from the first one shown. *cut*:
    only the begin of the line is there. When all is too much, the lines farthest from the match go first.
    """
    text = _shortened(shown(match), _MATCH_BYTES)
    if cut and not text.endswith(_CUT):
        text += _CUT
    room = MOST_BYTES - _size(text)
    near: dict[int, str] = {}
    for distance in range(1, max(len(before), len(after)) + 1):
        for place, lines in ((-distance, before[::-1]), (distance, after)):
            if distance > len(lines):
                continue
            line = _shortened(shown(lines[distance - 1]), _CONTEXT_BYTES)
            room -= _size(line)
            if room < 0:
                break
            near[place] = line
        if room < 0:
            break
    first = min((*near, 0))
    here = number if number is not None else 1 - first
    return Details(
        description,
        tuple(Line(here + place, near[place]) for place in sorted(near) if place < 0),
        Line(here, text),
        tuple(Line(here + place, near[place]) for place in sorted(near) if place > 0),
    )


def too_long(data: bytes, end: int) -> int:
    """Where the first line longer than LINE begins in *data*; *end* when there is none before it."""
    begin = 0
    while end - begin > LINE + 1:
        newline = data.rfind(b"\n", begin, begin + LINE + 1)
        if newline < 0:
            return begin
        begin = newline + 1
    return end


def _size(text: str) -> int:
    """Bytes of *text* in an alert, with what JSON adds."""
    return len(text.encode()) + text.count("\\") + text.count('"') + 40


def _shortened(text: str, most: int) -> str:
    if _size(text) <= most:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _size(text[:middle]) + len(_CUT) <= most:
            low = middle
        else:
            high = middle - 1
    return text[:low] + _CUT
