"""How patterns are written for blocks of lines. That the verdicts are grep's is shown in test_pcre2.py."""

from __future__ import annotations

import pytest

from mender_monitor_py.linepattern import BlockPattern, for_blocks

GUARD = r"(?:(?!\n)%s)"


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "CVE.*HIGH",
        r"^a|b$",
        r"\bword\b\B",
        r"(?i)error(?-i)E(?#a [ comment)",
        r"(?<name>a)\k<name>(?P=name)\1\g{-1}\g1",
        r"(?>a+)b++(?=c)(?!d)(?<=e)(?<!f)(?|x|y)",
        r"(a)(?(1)b|c)(?(?=x)y|z)(?R)?(?&n)(?+1)",
        r"\Q[\s\E",
        r"\Qunended [",
        r"[a-z\d_[:alpha:]\w-]\x41\x{e9}\t\.\[\ ",
        r"[[]",
        r"\p{Lu}\pN\S\N\h\V",
        "grüße [äöü]",
    ],
)
def test_left_alone(pattern: str) -> None:
    """What cannot match a newline anyway stays as it is."""
    assert for_blocks(pattern) == BlockPattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (r"[^x]+", r"[^x\n]+"),
        (r"[^]x]", r"[^\]x\n]"),
        (r"[^x-]", r"[^x\-\n]"),
        (r"[^-x]", r"[^-x\n]"),
        (r"a\sb", r"a[^\S\n]b"),
        (r"\v", r"[^\V\n]"),
        (r"\Ax\z|y\Z", r"^x$|y$"),
        (r"\W+", GUARD % r"\W" + "+"),
        (r"\n", GUARD % r"\n"),
        (
            r"\x0a\x{a}\012\cj\o{12}",
            "".join(GUARD % x for x in (r"\x0a", r"\x{a}", r"\012", r"\cj", r"\o{12}")),
        ),
        (r"[\s,]", GUARD % r"[\s,]"),
        (r"[\t-\r]", GUARD % r"[\t-\r]"),
        (r"[[:^alpha:]]", GUARD % r"[[:^alpha:]]"),
        (r"\P{L}\p{Greek}", GUARD % r"\P{L}" + GUARD % r"\p{Greek}"),
        (r"(?s)a.b", r"(?:)a.b"),
        (r"(?im-s:a)", r"(?i:a)"),
        (r"(?-mi)", r"(?-i)"),
        (r"\Ea", "a"),
    ],
)
def test_rewritten(pattern: str, written: str) -> None:
    """What could match a newline is kept from it; the ends of the subject become the ends of the line."""
    assert for_blocks(pattern) == BlockPattern(written)


@pytest.mark.parametrize(
    ("pattern", "from_newline"),
    [
        ("^", True),
        ("^$", True),
        (r"\Afoo", True),
        (r"\E^foo", True),
        ("^(a|b)[|](?:c|(?#|)d)(?(1)e|f)", True),
        ("^a|^b", False),
        ("(^a)", False),
        ("(?i)^a", False),
        ("^*a", False),
        ("^{0,1}a", False),
        (r"^a\Kb", False),
        ("a^", False),
        ("", False),
    ],
)
def test_anchored_patterns_begin_with_the_newline(pattern: str, from_newline: bool) -> None:
    """When every match begins at the begin of a line, the newline before it is what is looked for."""
    written = for_blocks(pattern)
    assert written is not None
    assert written.from_newline == from_newline
    assert written.text.startswith(r"\n") == from_newline


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?x) a b",
        r"(?^s:a)",
        r"(*UCP)\w",
        r"(*COMMIT)a",
        r"(*pla:a)",
        r"\R",
        r"\X",
        r"\G",
        r"\C",
        r"\12",
        r"\N{U+0a}",
        r"(?C1)a",
        r"[\Qa]\E]",
        r"[[.a.]]",
        r"\y",
        r"[\y]",
        "[a",
    ],
)
def test_unsure(pattern: str) -> None:
    """What is not certain is for single lines."""
    assert for_blocks(pattern) is None
