"""
Perl-compatible patterns by libpcre2-8, the library that ``grep -P`` uses; pcre2api(3), pcre2jit(3).

``grep -P`` in a UTF-8 locale (pcresearch.c of grep 3.8 and 3.11) compiles with PCRE2_UTF,
PCRE2_MATCH_INVALID_UTF and PCRE2_DOLLAR_ENDONLY, and judges each line without its newline.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
from functools import lru_cache

from mender_monitor_py.linepattern import for_blocks

# <pcre2.h>
_MULTILINE = 0x0000_0400
_DOLLAR_ENDONLY = 0x0000_0010
_UTF = 0x0008_0000
_ALT_CIRCUMFLEX = 0x0020_0000  # "^" also stands before an empty last line
_USE_OFFSET_LIMIT = 0x0080_0000
_MATCH_INVALID_UTF = 0x0400_0000
_NO_JIT = 0x0000_2000
_NOTBOL = 0x0000_0001
_JIT_COMPLETE = 0x1
_ERROR_NOMATCH = -1
_ERROR_JIT_STACKLIMIT = -46
_ERROR_MATCHLIMIT = -47

_AS_GREP = _UTF | _MATCH_INVALID_UTF | _DOLLAR_ENDONLY
_JIT_STACK = (32_768, 1_048_576)  # bytes: at first, at most
_HEAP_KIB = 8_192  # for matching without JIT

# Lines are an attacker's input. What a match may cost is bounded three times over: by steps from one
# position of a line, by CPU time for one line, and by a share of all CPU time for costly lines together.
_SLICE = 32_768  # bytes that one call judges
_QUICK_STEPS = 50_000  # under 0.1 ms
_THOROUGH_STEPS = 10_000_000  # the library's default, so grep's: 15 ms with JIT
_POSITIONS = 256  # that one call tries in a costly line
_LINE_SECONDS = 0.25
_BURST_SECONDS = 0.5
_SHARE = 0.1

# Bytes that begin no character in UTF-8. grep passes over them at the begin of a line, where "^" then does
# not match any more: such lines are judged alone.
_NO_CHARACTER = bytes((*range(0x80, 0xC2), *range(0xF5, 0x100)))
_ODD_LINE = re.compile(rb"(?:\A|\n)[\x80-\xc1\xf5-\xff]")

Span = tuple[int, int]


class _Library:
    """libpcre2-8, and what all patterns share: the limits, the JIT stack and the room for a result."""

    def __init__(self) -> None:
        """Raises OSError when the library is not installed."""
        dll = ctypes.CDLL("libpcre2-8.so.0")
        pointer, size, flags, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_char_p
        self._compile = dll.pcre2_compile_8
        self._compile.restype = pointer
        self._compile.argtypes = (text, size, flags, pointer, pointer, pointer)
        self._message = dll.pcre2_get_error_message_8
        self._message.argtypes = (ctypes.c_int, text, size)
        self.jit_compile = dll.pcre2_jit_compile_8
        self.jit_compile.argtypes = (pointer, flags)
        self.match = dll.pcre2_match_8
        self.match.argtypes = (pointer, text, size, size, flags, pointer, pointer)
        self.free = dll.pcre2_code_free_8
        self.free.argtypes = (pointer,)
        self.free.restype = None
        self.set_offset_limit = dll.pcre2_set_offset_limit_8
        self.set_offset_limit.argtypes = (pointer, size)
        for name, arguments in (
            ("pcre2_match_data_create_8", (flags, pointer)),
            ("pcre2_match_context_create_8", (pointer,)),
            ("pcre2_jit_stack_create_8", (size, size, pointer)),
        ):
            function = getattr(dll, name)
            function.restype = pointer
            function.argtypes = arguments
        dll.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(size)
        dll.pcre2_get_ovector_pointer_8.argtypes = (pointer,)
        dll.pcre2_set_match_limit_8.argtypes = (pointer, flags)
        dll.pcre2_set_heap_limit_8.argtypes = (pointer, flags)
        dll.pcre2_jit_stack_assign_8.argtypes = (pointer, pointer, pointer)
        dll.pcre2_jit_stack_assign_8.restype = None

        self.result = dll.pcre2_match_data_create_8(1, None)
        self.found = dll.pcre2_get_ovector_pointer_8(self.result)
        stack = dll.pcre2_jit_stack_create_8(*_JIT_STACK, None)
        self.quick, self.thorough = (dll.pcre2_match_context_create_8(None) for _ in range(2))
        for context, steps in ((self.quick, _QUICK_STEPS), (self.thorough, _THOROUGH_STEPS)):
            dll.pcre2_set_match_limit_8(context, steps)
            dll.pcre2_set_heap_limit_8(context, _HEAP_KIB)
            dll.pcre2_jit_stack_assign_8(context, None, stack)
        self.budget = _Budget()
        self._judged, self._odd = b"", False

    def has_odd_lines(self, block: bytes) -> bool:
        """Whether a line of *block* begins with what is no character; remembered for the next pattern."""
        if block is not self._judged:
            self._judged = block
            self._odd = not block.isascii() and _ODD_LINE.search(block) is not None
        return self._odd

    def compile(self, pattern: str, options: int) -> int:
        """A compiled pattern. Raises ValueError with the library's message and the position."""
        code, offset = ctypes.c_int(), ctypes.c_size_t()
        data = pattern.encode(errors="surrogateescape")
        compiled: int | None = self._compile(
            data, len(data), options, ctypes.byref(code), ctypes.byref(offset), None
        )
        if compiled is None:
            buffer = ctypes.create_string_buffer(256)
            self._message(code, buffer, len(buffer))
            position = len(data[: offset.value].decode(errors="replace"))
            raise ValueError(f"{buffer.value.decode()} (at character {position + 1})")
        return compiled


class _Budget:
    """CPU seconds that costly lines may still take; they come back as time passes, at a small share of it."""

    def __init__(self) -> None:
        self._left = _BURST_SECONDS
        self._at = time.monotonic()

    def left(self) -> float:
        now = time.monotonic()
        self._left = min(_BURST_SECONDS, self._left + _SHARE * (now - self._at))
        self._at = now
        return self._left

    def spend(self, seconds: float) -> None:
        self._left -= seconds


@lru_cache(maxsize=1)
def _library() -> _Library:
    return _Library()


class Pcre2Pattern:
    """
    A pattern that is matched by libpcre2.

    *gave_up* counts the lines that could not be judged because they were too costly.
    """

    def __init__(self, pattern: str) -> None:
        """Raises ValueError for a pattern that does not compile, OSError when there is no libpcre2."""
        self.gave_up = 0
        # \G is the position that a call begins at
        self._positions = sys.maxsize if r"\G" in pattern else _POSITIONS
        self._codes: list[int] = []
        self._library = _library()
        self._line = self._compiled(pattern, _AS_GREP | _USE_OFFSET_LIMIT)
        self._block: int | None = None
        self._from_newline = False
        rewritten = for_blocks(pattern)
        if rewritten is not None:
            self._from_newline = rewritten.from_newline
            try:
                self._block = self._compiled(rewritten.text, _AS_GREP | _MULTILINE | _ALT_CIRCUMFLEX)
            except ValueError:
                self._block = None  # it became too large, for example; single lines will do

    def __del__(self) -> None:
        for code in self._codes:
            self._library.free(code)

    def _compiled(self, pattern: str, options: int) -> int:
        code = self._library.compile(pattern, options)
        self._codes.append(code)
        # where it cannot (memory may not be executable, \C is used) the library interprets: slower, the same
        self._library.jit_compile(code, _JIT_COMPLETE)
        return code

    def find(self, block: bytes, start: int = 0) -> Span | None:
        """
        Where the first line with a match begins and ends in *block*, its newline not included.

        *start* is the begin of a line; what follows the last newline is a line too, unless it is empty.
        """
        end = len(block) - 1 if block.endswith(b"\n") else len(block)
        by_line = self._block is None or self._library.has_odd_lines(block)
        while block and start <= end:
            stop = _slice_end(block, start, end)
            found = self._find_by_line(block, start, stop) if by_line else self._find(block, start, stop)
            if found is not None:
                return found
            start = stop + 1
        return None

    def _find(self, block: bytes, start: int, stop: int) -> Span | None:
        library = self._library
        if self._from_newline and start == 0:
            end = _line_end(block, 0, stop)
            if self._matches(block[:end]):
                return 0, end
            start = end + 1
            if start > stop:
                return None
        # What precedes start is a newline, to which "^", look-behind and "\b" see the begin of a line.
        begin = start - self._from_newline
        code = library.match(self._block, block, stop, begin, 0, library.result, library.quick)
        if code == _ERROR_NOMATCH:
            return None
        if code < 0:
            return self._find_by_line(block, start, stop)
        position = library.found[0] + self._from_newline
        return block.rfind(b"\n", start, position) + 1 or start, _line_end(block, position, stop)

    def _find_by_line(self, block: bytes, start: int, stop: int) -> Span | None:
        while start <= stop:
            end = _line_end(block, start, stop)
            if self._matches(block[start:end]):
                return start, end
            start = end + 1
        return None

    def _matches(self, line: bytes) -> bool:
        library = self._library
        subject = line.lstrip(_NO_CHARACTER)
        options = _NOTBOL if len(subject) < len(line) else 0
        code = library.match(self._line, subject, len(subject), 0, options, library.result, library.quick)
        if code < _ERROR_NOMATCH:
            code = self._thorough(subject, options)
        if code < _ERROR_NOMATCH:
            self.gave_up += 1
        return bool(code >= 0)

    def _thorough(self, line: bytes, options: int) -> int:
        """The verdict on a costly line, or an error when it is too costly."""
        library = self._library
        allowed = min(library.budget.left(), _LINE_SECONDS)
        code = _ERROR_MATCHLIMIT
        begin = time.thread_time()
        for position in range(0, len(line) + 1, self._positions):
            if time.thread_time() - begin >= allowed:
                code = _ERROR_MATCHLIMIT
                break
            limit = position + self._positions - 1
            library.set_offset_limit(library.thorough, limit)
            while position < min(limit, len(line)) and 0x80 <= line[position] < 0xC0:
                position += 1  # within a character, which was tried with the positions before
            arguments = (self._line, line, len(line), position)
            code = library.match(*arguments, options, library.result, library.thorough)
            if code == _ERROR_JIT_STACKLIMIT:  # the heap has more room than the stack
                code = library.match(*arguments, options | _NO_JIT, library.result, library.thorough)
            if code != _ERROR_NOMATCH:
                break
        library.budget.spend(time.thread_time() - begin)
        return code


def _slice_end(block: bytes, start: int, end: int) -> int:
    """The end of a line, about a slice after *start*."""
    if end - start <= _SLICE:
        return end
    stop = block.rfind(b"\n", start, start + _SLICE)
    if stop < 0:
        stop = block.find(b"\n", start + _SLICE, end)
    return stop if stop >= 0 else end


def _line_end(block: bytes, position: int, stop: int) -> int:
    end = block.find(b"\n", position, stop)
    return end if end >= 0 else stop
