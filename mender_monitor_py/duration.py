"""Durations as users write them: ``90``, ``90s``, ``5m``, ``2h`` or ``2d``."""

from __future__ import annotations

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST_DIGITS = 9


def seconds(text: str) -> int:
    """*text* in seconds. Raises ValueError with a sentence for the user."""
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    if not (number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS and unit in _UNITS):
        raise ValueError(f"{text[:40]!r} is not a number of seconds, nor one with s, m, h or d behind it")
    return int(number) * _UNITS[unit]
