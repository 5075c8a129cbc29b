"""Patterns against real ``grep -P``: the same verdict on the same lines."""

from __future__ import annotations

import os
import string
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py.host.pattern import Pattern, compile_pattern
from mender_monitor_py.host.pcre2 import Pcre2Pattern

LINES = (
    b"",
    b"foo",
    b"foo bar",
    b"foobar foo",
    b" ",
    b"\t",
    b"a\tb",
    b"a\x00b",
    b"\x01\x1f",
    b"error: disk full",
    b"ERROR 42",
    b"Error at 0x7fff",
    b"\xff\xfe",
    b"\xa9foo",
    b"fo\xffo bar",
    "café au lait".encode(),
    "ÄÖÜ äöü".encode(),
    "αβγ ABC".encode(),
    b"abcabc",
    b"aaaaab",
    b"a]-b",
    b"[x]",
    b"x\r",
    b"2026-01-31T12:00:00Z host app[123]: CVE-2026-1 severity HIGH",
    b"container kill abc (name=scanner, image=x)",
    b"usb 1-1: USB disconnect, device number 4",
    b"\xe2\x82",
    b"\x0b\x0c",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"key=value key=other",
    b"((nested) (parens))",
    b"word_with_underscore",
    b"",
    b"#comment",
    b"tail",
)
BLOCK = b"\n".join(LINES) + b"\n"

PATTERNS = r"""
foo
^foo$
^$
^
$
.
..
^.{3}$
^(?!.*foo)
foo(?=bar)
foo(?! bar)
(?<=foo )bar
(?<!foo )foo
(?<![^ ])b
CVE.*HIGH
.*container kill.*name=scanner.*
usb \d+-\d+: USB disconnect
(?i)error
(?i:error) \d
((?i)err)or
error|ERROR
\d{4}-\d\d-\d\dT
0x[0-9a-f]+
[^x]+
^[^a-z]*$
^[^]]*]
[]-]
[^-a]
[a-]
a\sb
\s
^\s*$
\S+\s\S+
\W
^\W+$
[\W_]
\D
^\D+$
\w+_\w+
\h
^\H+$
\v
\V
\R
\N
\X
\bfoo\b
\Bo\b
\Aerror
tail\z
tail\Z
\G.
(?s)foo.bar
(?m)^foo$
(?-m)^foo$
(?x) f o o \ b a r # comment
(?#comment)foo
(.)\1
(abc)\1
(?<k>key)=\w+ \k<k>
(?P<k>key)=\w+ (?P=k)
(\((?:[^()]|(?1))*\))
(?|(a)|(b))\1
(a)?(?(1)a|f)
(?(?=f)foo|bar)$
a++b
(?>a+)b
(?>a+)ab
a+?b
x*
(?:)
foo\Kbar
\Qa]-b\E
\Q[x
[[:alpha:]]+
[[:^alpha:]]
^[[:space:]]+$
[[:cntrl:]]
[[:punct:][:digit:]]
[[:<:]]foo
[\x00-\x1f]
\x00
\x0d$
\x{e9}
\n
[\n]
\n*
[^\n]
\012
\cJ
\t
café
caf.\b
^.{4} au
[é-ü]
[äöü]+$
\p{Lu}{3}
\p{Greek}
\PL
\p{L}+\P{L}\pL+
(*UCP)\w{4} au
(*ANYCRLF)x$
a(*SKIP)(*FAIL)|b
(*pla:foo)f
^#
foo bar|^$
\x41
\.
\e
\C
(?^:foo)
(?n)(foo)
(?U)a+b
\o{101}
(?=foo)(?=.*bar)
""".strip("\n").split("\n")


def grep(pattern: str, block: bytes) -> list[int] | None:
    """The numbers of the lines that grep -P selects. None: it does not take the pattern."""
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    command = ["grep", "-a", "-n", "-P", "-e", pattern]
    run = subprocess.run(command, input=block, capture_output=True, env=environment, timeout=60, check=False)
    if run.returncode == 2:
        return None
    return [int(line.partition(b":")[0]) for line in run.stdout.split(b"\n")[:-1]]


def selected(pattern: Pattern, block: bytes) -> list[int]:
    """The numbers of the lines with a match."""
    numbers, start = [], 0
    while (found := pattern.find(block, start)) is not None:
        begin, end = found
        assert begin == 0 or block[begin - 1 : begin] == b"\n"
        assert b"\n" not in block[begin:end]
        assert end == len(block) or block[end : end + 1] == b"\n"
        numbers.append(block.count(b"\n", 0, begin) + 1)
        start = end + 1
    return numbers


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_verdicts_of_grep(pattern: str) -> None:
    """Each pattern selects the lines that grep -P selects, in one block and across many slices."""
    expected = grep(pattern, BLOCK)
    assert expected is not None
    # With libpcre2 10.46, grep 3.11 takes a line of nothing but invalid UTF-8 for an empty one too.
    odd = {number for number in grep("^$", BLOCK) or () if BLOCK.split(b"\n")[number - 1]}
    for block in (BLOCK, BLOCK[:-1]):
        assert set(selected(Pcre2Pattern(pattern), block)) - odd == set(expected) - odd


def test_many_patterns_are_matched_in_blocks() -> None:
    """The table shows both ways: most patterns go by blocks, the uncertain ones by lines."""
    by_blocks = [Pcre2Pattern(pattern)._block is not None for pattern in PATTERNS]
    assert len(by_blocks) >= 60
    assert by_blocks.count(True) >= 60
    assert by_blocks.count(False) >= 8


WORDS = r"""
a b x . \d \D \s \S \w \W \h \H \v \V \N \R \X
\pL \PL \p{Lu} \p{Greek} \p{^L} é \x{e9} \x61 \x0a \n \r \t \012
\cJ \e \. \Qa.\E [^a] [^\s] [ab] [a-c] [^\Wa] [\D] [\s\S] [\v] [\H] [[:alpha:]] [[:^alpha:]] [[:space:]_]
[[:cntrl:]] [\x00-\x20] [\t-\r] [^\n] [é-ü] [^é] []a] [^]a] [a-] [^a-] [-a] [^-a] (?s:.)
^ $ \b \B \A \z \Z (?i) (?s) (?m) (?-m)
"""
ATOMS = st.sampled_from(WORDS.split())
QUANTIFIERS = st.sampled_from(["", "", "", "*", "+", "?", "*?", "+?", "++", "*+", "{2}", "{0,2}"])
GROUPS = st.sampled_from(["(", "(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?i:", "(?|", "(?s-m:"])


def _joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    piece = st.builds("{}{}".format, inner, QUANTIFIERS)
    sequence = st.lists(piece, min_size=1, max_size=3).map("".join)
    alternatives = st.lists(sequence, min_size=1, max_size=2).map("|".join)
    return st.builds("{}{})".format, GROUPS, alternatives) | sequence


LINE = st.lists(
    st.sampled_from([*"abxcAB_.]-1 \t\r\x0b\x00", "é", "\u03b1", "\x85", "\u2028"]), max_size=6
).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.recursive(ATOMS, _joined, max_leaves=6), st.lists(LINE, min_size=1, max_size=20))
def test_any_pattern_on_any_lines(pattern: str, lines: list[str]) -> None:
    """Generated patterns and lines: grep's verdict on every line."""
    block = "".join(line + "\n" for line in lines).encode()
    expected = grep(pattern, block)
    if expected is None:
        with pytest.raises(ValueError, match=r"at character"):
            Pcre2Pattern(pattern)
    else:
        assert selected(Pcre2Pattern(pattern), block) == expected


def test_lines_beyond_one_slice() -> None:
    """A match far inside of a large block is found, so is one in a line longer than a slice."""
    filler = b"nothing to see here\n" * 10_000
    long = b"x" * 100_000 + b" needle " + b"y" * 100_000
    block = filler + long + b"\n" + filler + b"needle"
    pattern = Pcre2Pattern(r"\bneedle\b")
    assert selected(pattern, block) == [10_001, 20_002]
    found = pattern.find(block)
    assert found is not None
    assert block[found[0] : found[1]] == long


def test_a_catastrophic_pattern_gives_up() -> None:
    """A line that would take for ever is counted and passed over; the lines around it are judged."""
    pattern = Pcre2Pattern(r"^(a+)+$")
    evil = b"a" * 60 + b"!"
    begin = time.thread_time()
    assert selected(pattern, b"aaa\n" + evil + b"\naa\n") == [1, 3]
    assert pattern.gave_up == 1
    assert time.thread_time() - begin < 5


@pytest.mark.parametrize("prefix", ["", "x"])
def test_a_costly_line_is_judged_to_its_end(prefix: str) -> None:
    """Its parts are tried one after the other, whatever characters lie where they meet."""
    line = f"{prefix}{'a' * 18}!{'é' * 300}aaa".encode()
    pattern = Pcre2Pattern(r"(a+)+$")
    assert pattern.find(line) == (0, len(line))
    assert pattern.gave_up == 0
    assert Pcre2Pattern(r"\G(a+)+$").find(line) is None


def test_an_attacker_cannot_take_the_processor() -> None:
    """Many costly lines, and a long one of many costly parts, end within bounds of CPU time."""
    pattern = Pcre2Pattern(r"(a+)+$")
    part = b"a" * 22 + b"!"
    begin = time.thread_time()
    assert pattern.find((part + b"\n") * 1_000 + part * 2_000) is None
    assert pattern.gave_up > 0
    assert time.thread_time() - begin < 10


def test_an_invalid_pattern_says_why_and_where() -> None:
    """The message is libpcre2's, with the place counted in characters."""
    with pytest.raises(ValueError, match=r"missing closing parenthesis \(at character 4\)"):
        compile_pattern("é(a")


def test_what_only_grep_e_takes() -> None:
    """A pattern that is no PCRE means what grep -E takes it for."""
    assert selected(compile_pattern("*foo"), b"a*foo\nfoo\nbar\n") == [1, 2]
    assert selected(compile_pattern("one\ntwo"), b"two\nthree\none\n") == [1, 3]


def test_codes_are_given_back() -> None:
    """Compiling again and again, as edited checks do, does not grow the process."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    def compile_many() -> None:
        for number in range(300):
            Pcre2Pattern("|".join(f"{word}{number}" for word in string.ascii_letters))

    compile_many()
    before = resident()
    compile_many()
    assert resident() - before < 1_000  # pages; a leak would be several thousand
