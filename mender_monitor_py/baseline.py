r"""
Lists of what a check expects: ``baseline.d/<subsystem>_<name>.list``.

A list is made for review and version control::

    # mender-monitor baseline 1
    # check: ports external
    # serial: 3
    tcp 22 sshd /usr/sbin/sshd
    udp 5353 * *

One entry a line, its fields apart by white space, ``#`` begins a comment line. Fields are shell globs:
``*`` and ``?`` stay within one folder, ``**`` crosses folders, a field that is ``*`` alone stands for
anything. A byte that would not be itself in a list (a space, a newline, a glob character, what is no UTF-8)
is written ``\ooo``, in octal, as in /proc/mounts; ``-`` is a field without a value.

The first lines are part of what is signed. *serial* grows by one with each change, so that an older list
with a valid signature is told from the present one. *check* binds a list to its check. There is no date: a
list that is learned again from an unchanged device has the same bytes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

FORMAT = 1
NOTHING = "-"

_HEADER = re.compile(r"#\s*(check|serial):\s*(.*\S)\s*")
_FORMAT = re.compile(r"#\s*mender-monitor baseline (\d+)\s*")
_ESCAPES = re.compile(r"(?:\\[0-3][0-7]{2})+")
_PLAIN = re.compile(r"[\w./:@%+=~^!{}()|&<>$'\"`-]+", re.ASCII)
_SPECIAL = frozenset("\\*?[] #,;")

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Listing(Generic[E]):
    """
    What a list says.

    *problems* name each line that could not be used, with file and line; the other lines count.
    """

    entries: tuple[E, ...] = ()
    serial: int = 0
    check: str = ""
    problems: tuple[str, ...] = ()


def parse(data: bytes, file: str, entry: Callable[[Sequence[str]], E]) -> Listing[E]:
    """The list in *data*; *entry* makes one of a line's fields, or raises ValueError with a reason."""
    entries, problems, head = [], [], {"check": "", "serial": "0"}
    for number, line in enumerate(_text(data).split("\n"), 1):
        try:
            if _is_comment(line):
                _read_header(line.strip(), head)
            elif fields := line.split():
                entries.append(entry(fields))
        except ValueError as error:
            problems.append(f"{file}:{number}: {error}")
    return Listing(tuple(entries), int(head["serial"]), head["check"], tuple(problems))


def inline(text: str, entry: Callable[[Sequence[str]], E], begins: Callable[[str], bool]) -> tuple[E, ...]:
    """
    The entries in a variable of a check file.

    They are apart by newlines, commas or semicolons, or by white space where *begins* knows a word as the
    first one of an entry. Raises ValueError with the entry and the reason.
    """
    found = []
    for fields in _inline_rows(text, begins):
        try:
            found.append(entry(fields))
        except ValueError as error:
            raise ValueError(f"{' '.join(fields)!r}: {error}") from error
    return tuple(found)


def render(check: str, serial: int, rows: Iterable[str], order: Callable[[str], str] = str) -> bytes:
    """The bytes of a list with *rows*, each once, sorted by *order* of them."""
    head = (f"# mender-monitor baseline {FORMAT}", f"# check: {check}", f"# serial: {serial}")
    lines = sorted(set(rows), key=lambda row: (order(row), row))
    return "".join(f"{line}\n" for line in (*head, *lines)).encode("utf-8", "surrogateescape")


def learned(
    check: str, rows: Iterable[str], before: bytes, serial: int = 0, order: Callable[[str], str] = str
) -> bytes:
    """
    The list of a device that has *rows* now, where *before* was its list (empty: none).

    The same rows give *before* as it is, comments included. Others give a new list with a serial above the
    one in *before* and above *serial*, the highest that was ever trusted.
    """
    now = set(rows)
    if before and now == set(rows_of(before)):
        return before
    return render(check, max(serial, _serial(before)) + 1, now, order)


def accepted(
    check: str,
    before: bytes,
    row: str,
    replaces: Callable[[str], bool] = lambda _: False,
    serial: int = 0,
    order: Callable[[str], str] = str,
) -> bytes:
    """
    *before* with one more entry in the place of those that it *replaces*, its comments kept.

    The new serial is above the one in *before* and above *serial*, the highest that was ever trusted.
    """
    if row in rows_of(before):
        return before
    return _changed(check, before, [row], replaces, serial, order)


def followed(
    check: str,
    before: bytes,
    rows: Iterable[str],
    subject: Callable[[str], str],
    serial: int = 0,
    order: Callable[[str], str] = str,
    *,
    gone: frozenset[str] = frozenset(),
) -> bytes:
    """
    *before* with *rows* as one change, each in the place of the entries about its *subject* (empty: none).

    Entries about a subject that is *gone* are left out.

    In a time that grows with the list, not with its square: the image of a system brings thousands.
    """
    present = set(rows_of(before))
    new = {subject(row) or row: row for row in rows if row not in present}
    if not new and not (gone and any(subject(row) in gone for row in present)):
        return before
    replaced = gone | new.keys()
    return _changed(check, before, new.values(), lambda entry: subject(entry) in replaced, serial, order)


def _changed(
    check: str,
    before: bytes,
    rows: Iterable[str],
    replaced: Callable[[str], bool],
    serial: int,
    order: Callable[[str], str],
) -> bytes:
    serial = max(serial, _serial(before)) + 1
    lines = _text(before).rstrip("\n").split("\n")
    lines = [line for line in lines if not _is_entry(line) or not replaced(line.strip())]
    if not any(_FORMAT.fullmatch(line) for line in lines):
        return render(check, serial, [*rows, *filter(_is_entry, lines)], order)
    waiting = deque(sorted(rows, key=lambda row: (order(row), row)))
    made = []
    for line in lines:
        while waiting and _is_entry(line) and order(line) > order(waiting[0]):
            made.append(waiting.popleft())
        made.append(f"# serial: {serial}" if _is_serial(line) else line)
    return "".join(f"{line}\n" for line in (*made, *waiting)).encode("utf-8", "surrogateescape")


def quote(text: str) -> str:
    """*text* as a field that stands for itself alone."""
    if text in ("", NOTHING):
        return NOTHING if not text else r"\055"
    return text if _PLAIN.fullmatch(text) else "".join(map(_quoted, text))


def unquote(field: str) -> str:
    """The text that :func:`quote` wrote as *field*."""
    return "" if field == NOTHING else _ESCAPES.sub(_unescaped, field)


class Glob:
    """A field of an entry, to be matched against a text (bytes that are no UTF-8 as PEP 383 has them)."""

    __slots__ = ("_matches", "leads_to", "literal", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        plain = _ESCAPES.sub("", text)
        wild = any(character in plain for character in "*?[\\")
        self.literal = None if wild else unquote(text)
        """The only text that matches, :attr:`leads_to` aside; None when there may be others."""
        self.leads_to = ""
        """What else matches: where the links in a path led to (see :meth:`leading`); empty: nothing."""
        self._matches = re.compile("" if not wild else _regex(text), re.DOTALL).fullmatch

    @property
    def regex(self) -> str:
        """A regular expression that matches what this does, as a whole and with DOTALL."""
        return _regex(self.text) if self.literal is None else re.escape(self.literal)

    def matches(self, text: str) -> bool:
        if self.literal is not None:
            return text in (self.literal, self.leads_to or self.literal)
        return self._matches(text) is not None

    def leading(self, real: Callable[[str], str]) -> Glob:
        """
        This field, where it is one path; what *real* says that this path leads to matches then, too.

        The kernel names what is executed without the links that were followed: /usr/bin/python3.11 for
        /usr/bin/python3.
        """
        if self.literal is None or not self.literal.startswith("/"):
            return self
        found = real(self.literal)
        if found == (self.leads_to or self.literal):
            return self
        led = Glob(self.text)
        led.leads_to = found if found != self.literal else ""
        return led

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Glob) and (other.text, other.leads_to) == (self.text, self.leads_to)

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Glob({self.text!r})"


_TOKEN = re.compile(
    r"(?P<escapes>(?:\\[0-3][0-7]{2})+)|\\(?P<escaped>.)|(?P<any>\*\*)|(?P<some>\*)|(?P<one>\?)"
    r"|\[(?P<not>[!^]?)(?P<set>\]?[^\]]*)\]|(?P<plain>.)",
    re.DOTALL,
)


_STARS = {"any": ".*", "some": "[^/]*"}


def _regex(glob: str) -> str:
    """A regular expression that matches what *glob* does, in a time that no text makes long."""
    if glob == "*":
        return ".*"
    stars, texts = [], [""]
    for token in _TOKEN.finditer(glob):
        if token.lastgroup in _STARS:
            stars.append(token.lastgroup)
            texts.append("")
        else:
            texts[-1] += _regex_of(token)
    found = texts[0]
    for star, text, following in zip(stars, texts[1:], (*stars, "")[1:], strict=True):
        # Where the next star may stand for all that is skipped, the first place that fits is as good as any.
        first = following == "any" or (star == "some" and following)
        found += f"(?>{_STARS[star]}?{text})" if first else f"{_STARS[star]}{text}"
    return found


def _regex_of(token: re.Match[str]) -> str:
    kind = token.lastgroup
    if kind == "escapes":
        return re.escape(_unescaped(token))
    if kind == "set":
        if not token["set"]:
            return re.escape(token[0])
        return f"(?!/)[{'^' if token['not'] else ''}{_set(token['set'])}]"
    return "[^/]" if kind == "one" else re.escape(token["escaped"] or token["plain"])


def _set(characters: str) -> str:
    """The inside of a bracket expression."""
    return re.sub("(.)-(.)|.", _range, characters, flags=re.DOTALL)


def _range(found: re.Match[str]) -> str:
    low, high = found.groups()
    if low is not None and low <= high:
        return f"{re.escape(low)}-{re.escape(high)}"
    return "".join(map(re.escape, found[0]))


def _quoted(character: str) -> str:
    if character.isprintable() and character not in _SPECIAL:
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def _unescaped(escapes: re.Match[str]) -> str:
    return bytes(int(code, 8) for code in escapes[0].split("\\")[1:]).decode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _read_header(line: str, head: dict[str, str]) -> None:
    if (version := _FORMAT.fullmatch(line)) and int(version[1]) > FORMAT:
        raise ValueError(f"format {version[1]} is newer than this software, which knows {FORMAT}")
    if not (found := _HEADER.fullmatch(line)):
        return
    key, value = found.groups()
    if key == "serial" and not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise ValueError(f"the serial {value[:20]!r} is not a number")
    head[key] = value


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _is_serial(line: str) -> bool:
    found = _HEADER.fullmatch(line.strip())
    return found is not None and found[1] == "serial"


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not _is_comment(line)


def rows_of(data: bytes) -> list[str]:
    """The entries of the list *data*, as they are written."""
    return [line.strip() for line in _text(data).split("\n") if _is_entry(line)]


def _serial(data: bytes) -> int:
    return parse(data, "", lambda fields: fields).serial


def _inline_rows(text: str, begins: Callable[[str], bool]) -> list[list[str]]:
    rows: list[list[str]] = []
    for part in re.split(r"[\n,;]", text):
        fresh = True
        for word in part.split():
            if fresh or begins(word):
                rows.append([word])
            else:
                rows[-1].append(word)
            fresh = False
    return rows
