"""The patterns of checks: what ``grep -P`` takes, else what ``grep -E`` takes."""

from __future__ import annotations

import logging
from typing import Protocol

from mender_monitor_py.host.ere import ErePattern
from mender_monitor_py.host.pcre2 import Pcre2Pattern

log = logging.getLogger(__name__)
_told: set[str] = set()


class Pattern(Protocol):
    """
    A compiled pattern. Lines are judged one by one, as grep does, also when they come in blocks.

    *gave_up* counts the lines that were too costly to judge; they are taken for lines without a match.
    """

    @property
    def gave_up(self) -> int: ...

    def find(self, block: bytes, start: int = 0) -> tuple[int, int] | None:
        """
        Where the first line with a match begins and ends in *block*, its newline not included.

        *start* is the begin of a line; what follows the last newline is a line too, unless it is empty.
        """


def compile_pattern(text: str) -> Pattern:
    """
    *text* as a Perl-compatible pattern or, if it is none, as an extended one.

    Raises ValueError, with libpcre2's message and position, when it is neither.
    """
    if "\n" in text:  # several patterns, which grep -P refuses
        return ErePattern(text)
    try:
        return Pcre2Pattern(text)
    except OSError as error:
        if "libpcre2" not in _told:
            _told.add("libpcre2")
            log.warning("libpcre2-8 is not there, patterns mean what grep -E takes them for: %s", error)
        return ErePattern(text)
    except ValueError as error:
        try:
            return ErePattern(text)
        except ValueError:
            raise error from None
