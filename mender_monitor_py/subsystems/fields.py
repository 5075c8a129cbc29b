"""Values that more than one subsystem reads. Each parser raises ValueError with a reason for the user."""

from __future__ import annotations

from collections.abc import Callable

from mender_monitor_py.baseline import Glob
from mender_monitor_py.duration import seconds

_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def choice(*words: str) -> Callable[[str], str]:
    """One of *words*."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text[:40]!r} is not one of: {' '.join(words)}")
        return text

    return parse


def choices(*words: str) -> Callable[[str], tuple[str, ...]]:
    """Some of *words*, apart by white space."""

    def parse(text: str) -> tuple[str, ...]:
        return tuple(map(choice(*words), text.split()))

    return parse


def yes_no(text: str) -> bool:
    """``yes`` or ``no``."""
    return choice("yes", "no")(text) == "yes"


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text)


def size(text: str) -> int:
    """A number of bytes above 0, maybe with K, M or G (1024)."""
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    if unit not in _SIZES or not (found := count(number)):
        raise ValueError(f"{text[:40]!r} is not a size, as 512K, 20M or 1G")
    return found * _SIZES[unit]


def absolute_path(text: str) -> str:
    """An absolute path, or nothing."""
    if text and not text.startswith("/"):
        raise ValueError(f"{text[:80]!r} is not an absolute path")
    return text


def absolute_paths(text: str) -> tuple[str, ...]:
    """Absolute paths, apart by white space."""
    return tuple(map(absolute_path, text.split()))


def absolute_globs(text: str) -> tuple[Glob, ...]:
    """Globs of absolute paths, apart by white space."""
    return tuple(map(Glob, absolute_paths(text)))


def interval(text: str) -> int:
    """A duration of a second or more."""
    if not (found := seconds(text)):
        raise ValueError("an interval is 1 second or more")
    return found
