"""
PCRE patterns that can be matched against many lines at once.

``grep -P`` judges each line alone. One call for a whole block of lines is faster, and gives the same
verdicts when nothing in the pattern can match a newline, and ``^`` and ``$`` stand at the ends of lines
(PCRE2_MULTILINE). :func:`for_blocks` writes a pattern that way. The syntax is that of pcre2pattern(3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

_NEWLINE = 10
_SET = r"p(?:[LMNPS]|\{[LMNPS][a-z&]?\})"  # letters, marks, numbers, punctuation, symbols: no newline
_ANY_SET = r"[pP](?:[A-Za-z]|\{\^?[\w&]+\})"
_NUMBER = r"x(?:\{[0-9A-Fa-f]+\}|[0-9A-Fa-f]{0,2})|o\{[0-7]+\}|0[0-7]{0,2}"
_POSIX_WITHOUT_NEWLINE = r"alpha|lower|upper|alnum|blank|digit|graph|print|punct|word|xdigit"


class _UnsureError(Exception):
    """What the pattern would match in a block is not certain."""


class BlockPattern(NamedTuple):
    """
    A pattern for blocks. *from_newline*: it begins with the newline before the line, where it was "^".

    To look for newlines is what libpcre2 does fast, but not for the begins of lines. The first line of a
    block has none before it, and must be judged alone.
    """

    text: str
    from_newline: bool = False


def for_blocks(pattern: str) -> BlockPattern | None:
    r"""
    *pattern*, written so that it matches within one line of a block what it matches in the line alone.

    It is to be compiled with PCRE2_MULTILINE and PCRE2_ALT_CIRCUMFLEX. None when that is not certain, as
    with ``(?x)``, ``\R`` or verbs: such a pattern is for single lines only. *pattern* is one that compiles.
    """
    try:
        pieces = [piece for piece in _pieces(pattern) if piece]
    except _UnsureError:
        return None
    if _is_anchored(pieces):
        return BlockPattern(r"\n" + "".join(pieces[1:]), from_newline=True)
    return BlockPattern("".join(pieces))


def _is_anchored(pieces: Sequence[str]) -> bool:
    """Whether each match begins with the "^" that is the first piece."""
    if pieces[:1] != ["^"] or pieces[1:2] in (["*"], ["+"], ["?"], ["{"]) or r"\K" in pieces:
        return False
    depth = 0
    for piece in pieces:
        if piece == "|" and depth == 0:
            return False
        if piece == ")":
            depth -= 1
        elif piece.startswith("(") and (piece.startswith("(?(") or not piece.endswith(")")):
            depth += 1
    return True


def _pieces(pattern: str) -> Iterator[str]:
    position = 0
    while position < len(pattern):
        for expression, write in _RULES:
            if match := expression.match(pattern, position):
                yield write(match)
                position = match.end()
                break
        else:
            if pattern[position] != "[":
                raise _UnsureError
            text, position = _character_class(pattern, position)
            yield text


def _same(match: re.Match[str]) -> str:
    return match[0]


def _guarded(match: re.Match[str]) -> str:
    return _guard(match[0])


def _guard(text: str) -> str:
    return rf"(?:(?!\n){text})"


def _number(match: re.Match[str]) -> str:
    return _guard(match[0]) if _value(match[0]) == _NEWLINE else match[0]


def _options(match: re.Match[str]) -> str:
    """In a line alone (?s) and (?m) change nothing; in a block they, or their absence, would."""
    kept = match[1].translate(_WITHOUT_M_AND_S)
    cleared = (match[2] or "").translate(_WITHOUT_M_AND_S)
    text = "(?" + kept + (cleared if cleared != "-" else "")
    return "(?:)" if text == "(?" and match[3] == ")" else text + match[3]


def _value(escape: str) -> int:
    """The character that an escape gives by its number."""
    if escape[1] == "c":
        return ord(escape[2].upper()) ^ 64
    base = 16 if escape[1] == "x" else 8
    return int("".join(filter(str.isalnum, escape[1:].lstrip("xo"))) or "0", base)


def _character_class(pattern: str, position: int) -> tuple[str, int]:
    """A class that begins at *position*, with newline taken out of it, and where it ends."""
    opening = _CLASS_OPENING.match(pattern, position)
    assert opening is not None
    negated = bool(opening[1])
    items = [r"\]"] if opening[2] else []  # the first one is a character of the class
    position = opening.end()
    newline = False
    while not pattern.startswith("]", position):
        item, may_be_newline = _class_item(pattern, position)
        items.append(item)
        position += len(item)
        begins_range = pattern.startswith("-", position) and not pattern.startswith("-]", position)
        newline = newline or may_be_newline(item, begins_range)
    if negated:
        if items and items[-1] == "-":
            items[-1] = r"\-"  # else it would make a range with what is added
        return f"[^{''.join(items)}\\n]", position + 1
    text = f"[{''.join(items)}]"
    return _guard(text) if newline else text, position + 1


def _class_item(pattern: str, position: int) -> tuple[str, Callable[[str, bool], bool]]:
    for expression, may_be_newline in _CLASS_RULES:
        if match := expression.match(pattern, position):
            return match[0], may_be_newline
    raise _UnsureError


def _never(item: str, begins_range: bool) -> bool:
    return False


def _perhaps(item: str, begins_range: bool) -> bool:
    return True


def _control(item: str, begins_range: bool) -> bool:
    return begins_range


def _by_number(item: str, begins_range: bool) -> bool:
    value = _value(item)
    return value == _NEWLINE or (begins_range and value < _NEWLINE)


def _becomes(text: str) -> Callable[[re.Match[str]], str]:
    return lambda match: text


_CLASS_OPENING = re.compile(r"\[(\^?)(\]?)")
_WITHOUT_M_AND_S = str.maketrans("", "", "ms")

# Syntax outside of character classes, and what is written for it. What no rule knows is not certain.
_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(expression, re.ASCII | re.VERBOSE), write)
    for expression, write in (
        (r"\\Q[\s\S]*?(?:\\E|\Z)", _same),
        (r"[^\\\[(]", _same),
        (r"\\[aefrtdSwhVbBK]", _same),
        (r"\\N(?!\{)", _same),
        (r"\\[1-9](?![0-9])", _same),  # a back-reference; \10 and more may be octal
        (r"\\g(?:[+-]?\d+|\{[\w+-]+\}|<[\w+-]+>|'[\w+-]+')", _same),
        (r"\\k(?:\{\w+\}|<\w+>|'\w+')", _same),
        (rf"\\{_SET}", _same),
        (r"\\[^A-Za-z0-9]", _same),
        (r"\\s", _becomes(r"[^\S\n]")),
        (r"\\v", _becomes(r"[^\V\n]")),
        (r"\\A", _becomes("^")),
        (r"\\[zZ]", _becomes("$")),
        (r"\\E", _becomes("")),
        (rf"\\(?:{_NUMBER}|c[\x20-\x7e])", _number),
        (rf"\\(?:[nDWH]|{_ANY_SET})", _guarded),
        (r"\(\?\#[^)]*\)", _same),
        (r"\(\?([imsnJU]*)(-[imsnJU]*)?([:)])", _options),
        (r"\((?![?*])", _same),
        (r"\(\?(?:[|>=!]|<[=!])", _same),
        (r"\(\?(?:P?<[A-Za-z_]\w*>|'[A-Za-z_]\w*')", _same),
        (r"\(\?(?:R|[+-]?\d+|&\w+|P[=>]\w+)\)", _same),  # recursion, and a reference by name
        (r"\(\?\((?:[+-]?\d+|<\w+>|'\w+'|R&\w+|[A-Za-z_]\w*)\)", _same),  # conditions
        (r"\(\?(?=\(\?<?[=!])", _same),
        (r"\[\[:[<>]:\]\]", _same),
    )
)

# The items of a character class, and whether they may be, or begin a range over, the newline.
_CLASS_RULES: tuple[tuple[re.Pattern[str], Callable[[str, bool], bool]], ...] = tuple(
    (re.compile(expression, re.ASCII), may_be_newline)
    for expression, may_be_newline in (
        (rf"\[:(?:{_POSIX_WITHOUT_NEWLINE}):\]", _never),
        (r"\[:\^?\w+:\]", _perhaps),
        (r"\[(?![:.=])", _never),
        (r"[^\\\[\x00-\x09]", _never),
        (r"[\x00-\x09]|\\[abt]", _control),
        (rf"\\(?:[efrdSwhV]|{_SET}|[^A-Za-z0-9])", _never),
        (rf"\\(?:{_NUMBER}|c[\x20-\x7e])", _by_number),
        (rf"\\(?:[nDsWHv]|[1-9][0-9]{{0,2}}|{_ANY_SET})", _perhaps),
    )
)
