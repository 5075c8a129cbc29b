"""Lines as an alert shows them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.loglines import LINE, MOST_BYTES, details, shown, too_long


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"plain\ttext", "plain\ttext"),
        ("grüße".encode(), "grüße"),
        (b"a\x00b", r"a\x00b"),
        (b"\xff\xc3", r"\xff\xc3"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"\xc2\x85", r"\x85"),
        (b"dos\r", "dos"),
    ],
)
def test_shown(line: bytes, text: str) -> None:
    """NUL, other control characters and what is not UTF-8 are escaped."""
    assert shown(line) == text


def test_lines_are_numbered_around_the_match() -> None:
    """In the file where that is known, else from the first line shown."""
    counted = details("d", [b"a", b"b"], b"m", [b"c"], number=100)
    assert [line.number for line in counted.lines_before] == [98, 99]
    assert counted.line_matching is not None
    assert counted.line_matching.number == 100
    assert [line.number for line in counted.lines_after] == [101]
    relative = details("d", [b"a", b"b"], b"m", [b"c"])
    assert relative.line_matching is not None
    assert [line.data for line in relative.lines_before] == ["a", "b"]
    assert relative.line_matching.number == 3


def test_the_farthest_lines_go_first() -> None:
    """The match is there whole; around it what has room."""
    before = [b"%d " % number + b"x" * 3000 for number in range(30)]
    after = [b"%d " % number + b"y" * 3000 for number in range(30)]
    found = details("d", before, b"m" * 1000, after)
    assert found.line_matching is not None
    assert found.line_matching.data == "m" * 1000
    assert 10 < len(found.lines_before) < 30
    assert found.lines_before[-1].data == before[-1].decode()
    assert found.lines_after[0].data == after[0].decode()
    assert abs(len(found.lines_before) - len(found.lines_after)) <= 1


def test_what_is_cut_is_marked() -> None:
    """A line that is too long, for its reader or for the alert, says so."""
    found = details("d", [b"x" * 10_000], b"m" * LINE, [], cut=True)
    assert found.line_matching is not None
    assert found.line_matching.data.endswith("m [cut]")
    assert found.lines_before[0].data.endswith("x [cut]")
    small = details("d", [], b"m", [], cut=True).line_matching
    assert small is not None
    assert small.data == "m [cut]"


@given(
    st.lists(st.binary(max_size=9000), max_size=40),
    st.binary(max_size=LINE),
    st.lists(st.binary(), max_size=9),
)
def test_the_size_is_bounded(before: list[bytes], match: bytes, after: list[bytes]) -> None:
    """Whatever an attacker writes, the lines fit into the bound, and their numbers are distinct."""
    found = details("d", before, match, after)
    assert found.line_matching is not None
    lines = [*found.lines_before, found.line_matching, *found.lines_after]
    text = json.dumps([{"line_number": line.number, "data": line.data} for line in lines], ensure_ascii=False)
    assert len(text.encode()) <= MOST_BYTES + 1024
    assert [line.number for line in lines] == list(range(lines[0].number, lines[0].number + len(lines)))


@given(st.lists(st.integers(0, 3 * LINE), max_size=4))
def test_the_first_long_line_is_found(lengths: list[int]) -> None:
    """Lines up to the bound pass, whatever their order."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    begin = 0
    for length in lengths:
        if length > LINE:
            break
        begin += length + 1
    assert too_long(data, len(data)) == begin
