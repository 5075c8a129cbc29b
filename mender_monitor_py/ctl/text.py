"""Text for terminals: what others wrote (names, patterns, log lines) is shown, never obeyed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

_MAX_CELL = 200
_SHA256 = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def one_line(text: str) -> str:
    """*text* with its line breaks, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(rows: Iterable[Sequence[str]]) -> str:
    """*rows* as aligned columns, the last one as long as it is; cells are escaped, and cut when very long."""
    cells = [[_cell(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def without_long_hashes(text: str) -> str:
    """*text* with the first 12 digits of each SHA-256 only: enough for the eye."""
    return _SHA256.sub(r"\1…", text)


def counted(number: int, one: str, many: str) -> str:
    """``1 entry``, ``2,345 entries``."""
    return f"{number:,} {one if number == 1 else many}"


def moment(wall: float | None) -> str:
    """Seconds since the epoch as local time; a dash for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall)) if wall else "-"


def _cell(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
