"""Check files: whenever the parser answers, bash gives the same values."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from mender_monitor_py.definition import Parsed, decode, encode, parse, probable_lines, render

NAMES = ("A", "LOG_FILE", "b_2", "_x")
LOCALES = ("C", "C.UTF-8", "POSIX")

# Reads each file in a subshell and prints its variables: NAME NUL VALUE NUL, and a NUL after each file.
READ_ALL = """
cd "$1" || exit; shift
for file; do
    ( . "./$file" >&2
      for name in A LOG_FILE b_2 _x; do
          if [ -n "${!name+set}" ]; then printf '%s\\0%s\\0' "$name" "${!name}"; fi
      done )
    printf '\\0'
done
"""


def by_bash(folder: Path, files: list[bytes], locale: str = "C.UTF-8") -> list[dict[str, str]]:
    """What bash has in the variables NAMES after each of the files; PATH is empty, so nothing is run."""
    for number, data in enumerate(files):
        (folder / str(number)).write_bytes(data)
    output = subprocess.run(
        ["/bin/bash", "-c", READ_ALL, "bash", folder, *map(str, range(len(files)))],
        env={"PATH": "/nonexistent", "LC_ALL": locale},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=120,
    ).stdout
    results = []
    fields = iter(output.split(b"\0"))
    for _ in files:
        values = {}
        while name := next(fields):
            values[decode(name)] = decode(next(fields))
        results.append(values)
    return results


def named(values: Mapping[str, str]) -> dict[str, str]:
    """Of *values* those that :func:`by_bash` asks for."""
    return {name: value for name, value in values.items() if name in NAMES}


def answer(data: bytes) -> Parsed:
    parsed = parse(data)
    assert parsed is not None
    return parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


PLAIN = [
    (b"", {}),
    (b"\n# a comment\n   # another\n", {}),
    (b"A=1", {"A": "1"}),
    (b"A=\nLOG_FILE=x\n", {"A": "", "LOG_FILE": "x"}),
    (b"A=1\r\nLOG_FILE='x'\r\n", {"A": "1\r", "LOG_FILE": "x\r"}),
    (b"A=1 b_2=2 ; _x=3; # end", {"A": "1", "b_2": "2", "_x": "3"}),
    (b"A=1\nA=2\n", {"A": "2"}),
    (b"  \tA=1", {"A": "1"}),
    (b"A=one#two # three", {"A": "one#two"}),
    (b"A=#b", {"A": "#b"}),
    (b"A='a b'\"c d\"e\\ f$'g\\th'", {"A": "a bc de fg\th"}),
    (b"A='a\nb'", {"A": "a\nb"}),
    (b"A='a\\\nb'", {"A": "a\\\nb"}),
    (b'A="a\\\nb"', {"A": "ab"}),
    (b"A=a\\\nb", {"A": "ab"}),
    (b"A=a \\\n b_2=2", {"A": "a", "b_2": "2"}),
    (b"# a comment \\\nA=1", {"A": "1"}),
    (b'A="\\$ \\` \\" \\\\ \\n \\a"', {"A": '$ ` " \\ \\n \\a'}),
    (b"A=\\$\\`\\n\\\\", {"A": "$`n\\"}),
    (b"A=$'\\a\\b\\e\\E\\f\\n\\r\\t\\v\\\\\\'\\\"\\?'", {"A": "\a\b\x1b\x1b\f\n\r\t\v\\'\"?"}),
    (b"A=$'\\101\\x41\\xc3\\xa9\\q\\400'", None),  # \400 is NUL
    (b"A=$'\\101\\x41\\xc3\\xa9\\q\\541'", {"A": "AA\u00e9\\qa"}),
    (b"A=\xff'\xfe'\"\xc3\"", {"A": "\udcff\udcfe\udcc3"}),
    ("A=größe \u00a0".encode(), None),  # a no-break space is a word of its own
    ("A='größe \u00a0'".encode(), {"A": "größe \u00a0"}),
    (b"A=*.log b_2=[ab]? _x={1,2}", {"A": "*.log", "b_2": "[ab]?", "_x": "{1,2}"}),
    (b"A=!x^y%z@=b+c,-", {"A": "!x^y%z@=b+c,-"}),
    (b'A="error$" b_2="a$|b" _x=c$', {"A": "error$", "b_2": "a$|b", "_x": "c$"}),
    (
        b"LOG_FILE=type='signal',interface='io.mender.Authentication1'",
        {"LOG_FILE": "type=signal,interface=io.mender.Authentication1"},
    ),
    (b"A=a\x0bb\x0c", {"A": "a\x0bb\x0c"}),
]

NEEDS_BASH = [
    b'LOG_FILE="/var/log/$(hostname).log"',
    b"A=$b_2",
    b'A="${b_2}"',
    b'A="`date`"',
    b"A=~/x",
    b"A=x:~",
    b"A=$[1+1]",
    b'A=$"text"',
    b"A+=x",
    b"A[0]=x",
    b"A=(1 2)",
    b"A=1 command",
    b"export A=1",
    b"A=1 & b_2=2",
    b"A=1 | cat",
    b"A=1 >file",
    b";A=1",
    b"A=1;;",
    b"A=1 ; ; b_2=2",
    b"if true; then A=1; fi",
    b"A='open",
    b'A="open',
    b"A=open\\",
    b"A=$'open",
    b"A=$'\\u00e9'",
    b"A=$'\\cA'",
    b"A=$'a\\0b'",
    b"A=a\0b",
    b"A=\x01",
    b"A=\x7f",
    b"\r\nA=1",
    b"1A=1",
    b"A =1",
    b"PATH=/x",
    b"UID=7",
    b"BASH_ENV=x",
    b"LC_ALL=tr_TR",
    b"IFS=,",
]


@pytest.mark.parametrize(("data", "values"), PLAIN)
def test_a_plain_file_has_the_values_that_bash_gives(folder, data, values):
    """
    The parser and bash agree, on values written down here.
    """
    if values is None:
        assert parse(data) is None
    else:
        assert answer(data).values == values
        assert by_bash(folder, [data]) == [values]


@pytest.mark.parametrize("data", NEEDS_BASH)
def test_a_file_with_more_than_plain_assignments_is_left_to_bash(data):
    """
    Nothing is guessed: an expansion, a command, a broken quote, a variable of the shell's own.
    """
    assert parse(data) is None


def test_a_value_knows_its_line():
    """
    The line where the last assignment begins, counted over quoted and continued lines.
    """
    parsed = answer(b"# top\nA='1\n2' b_2=\\\n3\n\n_x=4\nA=5")
    assert parsed.lines == {"A": 7, "b_2": 3, "_x": 6}


def test_lines_of_a_file_that_bash_reads_are_those_that_look_like_assignments():
    """
    An error in a file with real shell still names a line.
    """
    data = b"if true; then\n  A=$(date)\nfi\nexport  b_2=1\n#_x=1\n"
    assert probable_lines(data) == {"A": 2, "b_2": 4}


SINGLE = [bytes([code]) for code in b"'\"\\$\n \t#;=:~\r*?[]{},!^%@+-./|)x1\x0b\x0c\x85\xa0\xa9\xc3\xff"]
SEVERAL = [
    *r"$' $x $. $- \x41 \xe9 \x{41} \u00e9 \cA \101 \541 \7 \n \q \' \" é 語".encode().split(),
    b"\\\n",
    b"\xe2\x82",
]
PIECES = st.sampled_from(SINGLE) | st.sampled_from(SEVERAL) | st.binary(max_size=3)
LOOSE = st.lists(PIECES, max_size=8).map(b"".join)
WORDS = st.one_of(
    LOOSE,
    LOOSE.map(lambda data: b"'" + data.replace(b"'", b"") + b"'"),
    LOOSE.map(lambda data: b'"' + data.replace(b'"', b"").replace(b"\\", b"\\\\") + b'"'),
    LOOSE.map(lambda data: b'"' + data.replace(b'"', b'\\"') + b'"'),
    LOOSE.map(lambda data: b"$'" + data.replace(b"'", b"\\'") + b"'"),
    LOOSE.map(lambda data: data.replace(b"'", b"").replace(b'"', b"").replace(b" ", b"\\ ")),
)
ASSIGNMENTS = st.builds(
    lambda name, words, end: name.encode() + b"=" + b"".join(words) + end,
    st.sampled_from(NAMES),
    st.lists(WORDS, max_size=4),
    st.sampled_from([b"\n", b"\n", b"\n", b" ", b"; ", b" # it's\n", b"\r\n", b"\\\n", b""]),
)
FILES = st.lists(ASSIGNMENTS, min_size=1, max_size=3).map(b"".join)


@pytest.mark.parametrize("locale", LOCALES)
# No shrinking: the failing file of a batch is seen in the diff, and each step costs a bash.
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(files=st.lists(FILES, min_size=40, max_size=60))
def test_whenever_the_parser_answers_bash_gives_the_same_values(folder, locale, files):
    """
    Over files of quotes, backslashes, comments, odd bytes and half of everything, in each locale.
    """
    answered = [data for data in files if parse(data) is not None]
    assume(answered)
    assert by_bash(folder, answered, locale) == [named(answer(data).values) for data in answered]


VALUES = st.text(st.characters(exclude_characters="\0"), max_size=30).filter(
    lambda text: not any("\ud800" <= character <= "\udfff" for character in text)
) | st.binary(max_size=30).map(lambda data: decode(data.replace(b"\0", b"")))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.fixed_dictionaries({"A": VALUES, "LOG_FILE": VALUES}), min_size=30, max_size=40))
def test_what_create_writes_bash_reads_back(folder, rows):
    """
    Quotes, dollar signs, backslashes, newlines, any bytes: the value comes back as it was.
    """
    files = [encode(render(row)) for row in rows]
    assert by_bash(folder, files) == rows
    for row, data in zip(rows, files, strict=True):
        parsed = parse(data)
        assert parsed is None or parsed.values == row


def test_a_written_file_has_the_form_of_the_original():
    """
    The comment that scripts look for, then NAME="value" lines.
    """
    assert render({"SERVICE_NAME": "cron", "SERVICE_TYPE": "systemd"}) == (
        "# This file was autogenerated by Monitoring Utilities based on the configuration\n"
        'SERVICE_NAME="cron"\n'
        'SERVICE_TYPE="systemd"\n'
    )


@pytest.mark.parametrize(
    ("name", "value"), [("A B", "x"), ("", "x"), ("1A", "x"), ("PATH", "x"), ("A", "a\0b")]
)
def test_what_no_variable_can_be_is_refused(name, value):
    """
    A name that is none, a name of the shell's own, a NUL character.
    """
    with pytest.raises(ValueError, match=r"name|NUL"):
        render({name: value})


@pytest.mark.parametrize("piece", [b'"\\', b"A=\\\n", b"$'\\", b'A="$" ', b"A=a\\ "])
def test_the_largest_file_is_read_in_one_pass(piece):
    """
    A file full of quotes and backslashes ends; a parser that goes back and forth would not.
    """
    parsed = parse(b"b_2=1\n" + piece * (65_536 // len(piece)))
    assert parsed is None or parsed.values["b_2"] == "1"
