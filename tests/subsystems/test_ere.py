"""Extended regular expressions against real ``grep -E``."""

from __future__ import annotations

import os
import subprocess

import pytest

from mender_monitor_py.host.ere import ErePattern

LINES = (
    b"",
    b"foo",
    b"a\x00b",
    "café".encode(),
    b"\xff\xfe",
    b"a{1}",
    b"x\ty",
    b"FOO bar",
    b"a+b",
    b"word_1",
)
BLOCK = b"\n".join(LINES) + b"\n"


def grep(pattern: str) -> list[int]:
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    command = ["grep", "-a", "-n", "-E", "-e", pattern]
    run = subprocess.run(command, input=BLOCK, capture_output=True, env=environment, timeout=60, check=False)
    assert run.returncode < 2
    return [int(line.partition(b":")[0]) for line in run.stdout.split(b"\n")[:-1]]


@pytest.mark.parametrize(
    "pattern",
    [
        "foo",
        "^$",
        "*foo*",
        "o|*a|+b",
        "a{1",
        "^.{4}$",
        "caf.$",
        "[[:alpha:]]+[[:space:]]",
        "[^a-z]",
        r"\<foo\>",
        r"\w+_[0-9]",
        r"a\+b",
        r"a{1}|a\{",
        "(foo|FOO)( bar)?$",
        "[[=e=]]|[[.a.]]",
        "x\ty\nfoo",
    ],
)
def test_the_verdicts_of_grep(pattern: str) -> None:
    """Each pattern selects the lines that grep -E selects."""
    compiled = ErePattern(pattern)
    numbers, start = [], 0
    while (found := compiled.find(BLOCK, start)) is not None:
        numbers.append(BLOCK.count(b"\n", 0, found[0]) + 1)
        start = found[1] + 1
    assert numbers == grep(pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a", r"Unmatched \( or \\\("),
        ("[a", r"Unmatched"),
        (r"(a)\1", "back-references"),
        ("((a{100}){100}){100}", "repeats too much"),
    ],
)
def test_refused(pattern: str, reason: str) -> None:
    """The C library's message, or what is not allowed."""
    with pytest.raises(ValueError, match=reason):
        ErePattern(pattern)
