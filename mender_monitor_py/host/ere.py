"""
Extended regular expressions by the GNU C library, as ``grep -E`` reads them; regex.h, regex(7).

For patterns that are not Perl-compatible ones, and for systems without libpcre2. regcomp() would refuse some
that grep takes, ``*error*`` among them; re_compile_pattern() is what grep itself calls.
"""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache

_SYNTAX_EGREP = 0x23BA5C  # RE_SYNTAX_EGREP of <regex.h>
_NO_SUB = 0x200_0000
_BUFFER_SIZE = 256  # bytes, more than a struct re_pattern_buffer has
_LC_CTYPE_MASK = 1  # <locale.h>
_MOST_COPIES = 10_000  # (a{100}){100} makes so many copies of a
_BACK_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\\[1-9]")
_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?\}", re.ASCII)


class _Library:
    """The C library's matcher, in a UTF-8 locale of its own: the process may have another one."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        pointer, text, size, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
        self.set_syntax = libc.re_set_syntax
        self.set_syntax.restype = ctypes.c_ulong
        self.set_syntax.argtypes = (ctypes.c_ulong,)
        self.compile = libc.re_compile_pattern
        self.compile.restype = text
        self.compile.argtypes = (text, size, pointer)
        self.search = libc.re_search
        self.search.argtypes = (pointer, text, number, number, number, pointer)
        self.free = libc.regfree
        self.free.restype = None
        self.free.argtypes = (pointer,)
        self.use_locale = libc.uselocale
        self.use_locale.restype = pointer
        self.use_locale.argtypes = (pointer,)
        libc.newlocale.restype = pointer
        libc.newlocale.argtypes = (number, text, pointer)
        # None where there is no such locale: uselocale(None) leaves the present one in place
        self.utf8 = libc.newlocale(_LC_CTYPE_MASK, b"C.UTF-8", None)


@lru_cache(maxsize=1)
def _library() -> _Library:
    return _Library()


class ErePattern:
    """
    A pattern that means what it means to ``grep -E``, a newline in it included: it separates alternatives.

    Back-references are refused, since lines could then take exponential time. The matcher needs no other
    limit: *gave_up* stays 0.
    """

    gave_up = 0

    def __init__(self, pattern: str) -> None:
        """Raises ValueError with a reason for the user."""
        if _BACK_REFERENCE.search(pattern):
            raise ValueError("back-references are not allowed in an extended regular expression")
        if _copies(pattern) > _MOST_COPIES:
            raise ValueError("it repeats too much")
        self._library = library = _library()
        self._compiled = ctypes.create_string_buffer(_BUFFER_SIZE)
        data = pattern.encode(errors="surrogateescape")
        locale = library.use_locale(library.utf8)
        syntax = library.set_syntax(_SYNTAX_EGREP | _NO_SUB)
        error = library.compile(data, len(data), self._compiled)
        library.set_syntax(syntax)
        library.use_locale(locale)
        if error is not None:
            raise ValueError(error.decode(errors="replace"))

    def __del__(self) -> None:
        if hasattr(self, "_compiled"):
            self._library.free(self._compiled)

    def find(self, block: bytes, start: int = 0) -> tuple[int, int] | None:
        """Where the first line with a match begins and ends in *block*, its newline not included."""
        locale = self._library.use_locale(self._library.utf8)
        try:
            while start < len(block):
                end = block.find(b"\n", start)
                if end < 0:
                    end = len(block)
                line = block[start:end]
                if self._library.search(self._compiled, line, len(line), 0, len(line), None) >= 0:
                    return start, end
                start = end + 1
        finally:
            self._library.use_locale(locale)
        return None


def _copies(pattern: str) -> int:
    product = 1
    for least, most in _REPEAT.findall(pattern):
        product *= max(int(least or 0), int(most or 0), 1)
    return product
