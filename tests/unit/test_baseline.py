"""Lists of expected things: what is read, what is written, and what a field matches."""

from __future__ import annotations

import fnmatch
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import baseline
from mender_monitor_py.baseline import Glob, accepted, inline, learned, parse, quote, render, unquote

# Any bytes but NUL, as the kernel gives file names, decoded as Python does (PEP 383).
names = st.binary(max_size=30).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
nasty = st.text(st.sampled_from("a/*?[]!-\\# \n\t-040\u202e\udcff\u00e9\u00a0")).map(
    lambda text: text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
)


def pair(fields):
    """An entry of exactly two fields."""
    if len(fields) != 2:
        raise ValueError("two fields expected")
    return tuple(fields)


@given(names | nasty)
def test_a_quoted_name_is_one_field_that_matches_itself(name):
    """Spaces, newlines, glob characters and invalid UTF-8 in a path cannot forge a list."""
    field = quote(name)
    assert [field] == field.split()
    assert not field.startswith("#")
    assert name == unquote(field)
    assert name == "" or Glob(field).matches(name)
    assert name == "" or Glob(field).literal == name


@given(names | nasty, names | nasty)
def test_a_quoted_name_matches_nothing_else(name, other):
    assert Glob(quote(name)).matches(other) == (name == other) or not name


@given(st.lists(names | nasty, max_size=8), st.integers(1, 10**9))
def test_what_is_written_is_read_back(texts, serial):
    rows = [f"x {quote(text)}" for text in texts]
    listing = parse(render("process all", serial, rows), "f", pair)
    assert ("process all", serial, ()) == (listing.check, listing.serial, listing.problems)
    assert sorted(set(rows)) == [" ".join(entry) for entry in listing.entries]


@given(st.permutations(["b 2", "a 1", "c 3", "a 1"]))
def test_two_learns_of_the_same_device_give_the_same_bytes(rows):
    first = learned("ports x", rows, b"")
    assert first == learned("ports x", reversed(rows), b"") == learned("ports x", rows, first)
    assert b"# serial: 1\na 1\nb 2\nc 3\n" in first


def test_a_learn_that_finds_something_else_has_a_higher_serial():
    first = learned("ports x", ["a 1"], b"")
    assert parse(learned("ports x", ["a 2"], first), "f", pair).serial == 2
    # The list was deleted, but one with serial 7 was trusted once: an older signature must not fit.
    assert parse(learned("ports x", ["a 2"], b"", serial=7), "f", pair).serial == 8


def test_a_learn_keeps_a_list_that_still_fits_with_its_comments():
    mine = b"# mine\n\na 1   \n# serial: 4\nb 2\n"
    assert mine == learned("ports x", ["b 2", "a 1"], mine)


def test_accepting_one_entry_keeps_comments_and_order():
    before = b"# mender-monitor baseline 1\n# check: p x\n# serial: 4\n# web\na 1\n# last\nc 3\n"
    after = accepted("p x", before, "b 2")
    assert after == before.replace(b"serial: 4", b"serial: 5").replace(b"c 3", b"b 2\nc 3")
    assert after == accepted("p x", after, "b 2")
    assert b"# serial: 1\na 1\n" in accepted("p x", b"", "a 1")


def test_a_bad_line_is_named_and_the_rest_works():
    listing = parse(b"a 1\nbad\n  # comment\n\nb 2\r\nc 3", "ports_x.list", pair)
    assert listing.entries == (("a", "1"), ("b", "2"), ("c", "3"))
    assert listing.problems == ("ports_x.list:2: two fields expected",)


@pytest.mark.parametrize("header", ["# mender-monitor baseline 2", "# serial: -3", "# serial: 9" + "9" * 20])
def test_a_header_that_cannot_be_used_is_a_problem(header):
    listing = parse(f"{header}\na 1\n".encode(), "f", pair)
    assert len(listing.problems) == 1
    assert listing.problems[0].startswith("f:1: ")
    assert listing.entries == (("a", "1"),)


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("*", ["", "a", "/a/b\n"], []),
        ("/opt/*", ["/opt/x", "/opt/"], ["/opt/x/y", "/opt", "x/opt/x"]),
        ("/opt/**", ["/opt/x", "/opt/x/y"], ["/optx"]),
        ("/b?n", ["/bin", "/b\u00e9n"], ["/bn", "/b/n"]),
        ("/[ab-d]x", ["/ax", "/cx"], ["/ex", "/-x", "//x"]),
        ("/[!a-c]x", ["/dx"], ["/ax", "//x"]),
        ("/[]]x", ["/]x"], ["/x"]),
        ("/[z-a]", ["/z", "/-", "/a"], ["/b"]),
        ("/[--a]", ["/-", "/a"], ["/b"]),
        ("/[]", ["/[]"], ["/"]),
        ("/[ab", ["/[ab"], ["/a"]),
        (r"/a\052b", ["/a*b"], ["/axb"]),
        (r"/a\040*", ["/a b"], ["/a\\040b"]),
        (r"/\303\251*", ["/\u00e9x"], ["/e"]),
        (r"/\*x", ["/*x"], ["/ax"]),
        ("/a.b+(c)|d", ["/a.b+(c)|d"], ["/axb+(c)|d"]),
    ],
)
def test_globs(glob, matching, other):
    assert matching == [text for text in [*matching, *other] if Glob(glob).matches(text)]


@given(st.text(st.sampled_from("ab*?"), max_size=8), st.text(st.sampled_from("ab"), max_size=8))
def test_globs_without_folders_are_those_of_the_shell(glob, text):
    assert fnmatch.fnmatchcase(text, glob) == Glob(glob).matches(text)


NAIVE = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@given(
    st.lists(st.sampled_from(["**", "*", "?", "a", "b", "/", "ab", "/a"]), min_size=1, max_size=9),
    st.text(st.sampled_from("ab/"), max_size=12),
)
def test_a_glob_matches_what_its_parts_do(parts, text):
    """However many stars it has, and whichever place of several they are matched at."""
    glob = "".join(parts)
    naive = re.sub(r"\*\*|.", lambda part: NAIVE.get(part[0], part[0]), glob)
    assert Glob(glob).matches(text) == (glob == "*" or re.fullmatch(naive, text) is not None)


def test_no_text_takes_a_glob_long():
    """Names of files are an attacker's; a pattern with several stars has a great many ways to fit."""
    started = time.process_time()
    assert not Glob("/opt/" + "*a" * 12 + "*b").matches("/opt/" + "a" * 250)
    assert not Glob("/**/a**a*a**a*a*b").matches("/" + "a/" * 200)
    assert not Glob("**a**a**a**a**b").matches("a" * 4000)
    assert time.process_time() - started < 5


@given(st.text(max_size=20), st.text(max_size=5))
def test_any_text_is_a_glob(glob, text):
    Glob(glob).matches(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list(data):
    listing = parse(data, "f", pair)
    assert all(len(entry) == 2 for entry in listing.entries)
    learned("c", ["a 1"], data)
    assert "a 1" in baseline.rows_of(accepted("c", data, "a 1"))


def test_inline_entries_are_apart_by_signs_or_by_their_first_word():
    def tcp(word):
        return word == "tcp"

    assert inline("tcp 1 tcp 2", pair, tcp) == (("tcp", "1"), ("tcp", "2"))
    assert inline(" a 1, b 2;\n c 3 ,", pair, tcp) == (("a", "1"), ("b", "2"), ("c", "3"))
    with pytest.raises(ValueError, match="'tcp': two fields expected"):
        inline("tcp tcp 2", pair, tcp)


_rows = st.lists(st.builds("{} {}".format, st.sampled_from("abcde*"), st.integers(0, 3)), max_size=8)


@given(_rows, _rows)
def test_many_rows_at_once_are_as_one_after_the_other(before, rows):
    """Each in the place of what is about the same, comments kept; with one new serial for all."""

    def subject(row):
        return row[0].strip("*")

    rows = [*{subject(row) or row: row for row in rows}.values()]
    data = render("p x", 3, before).replace(b"serial: 3\n", b"serial: 3\n# ours\n")
    expected = data
    for row in rows:
        about = subject(row)
        expected = accepted("p x", expected, row, lambda entry: "" != about == subject(entry))  # noqa: B023
    made = baseline.followed("p x", data, rows, subject)
    assert sorted(baseline.rows_of(made)) == sorted(baseline.rows_of(expected))
    assert b"# ours\n" in made
    assert (made == data) == (expected == data)
    assert made == data or b"# serial: 4\n" in made


def test_a_path_matches_what_its_links_lead_to_as_well():
    led = Glob("/usr/bin/python3").leading(lambda path: f"{path}.11")
    assert led.matches("/usr/bin/python3")
    assert led.matches("/usr/bin/python3.11")
    assert not led.matches("/usr/bin/python3.11.11")
    assert not led.matches("")
    assert led.leading(lambda path: f"{path}.12").matches("/usr/bin/python3.12")
    assert not led.leading(lambda path: path).matches("/usr/bin/python3.11")


@pytest.mark.parametrize("text", ["/usr/bin/*", "python3", "elsewhere:/usr/bin/python3", "*", ""])
def test_what_is_not_one_path_leads_nowhere(text):
    def real(path: str) -> str:
        raise AssertionError(path)

    assert Glob(text).leading(real) == Glob(text)
