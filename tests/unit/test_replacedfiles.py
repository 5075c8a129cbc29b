"""Files that are run still though a deployment has replaced them: kept for a boot, and told in a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.replacedfiles import ReplacedFile, from_text, note, to_text

# A path may have any bytes: Python gives those that are no UTF-8 as lone surrogates.
PATHS = st.text(st.characters(exclude_categories=()), min_size=1)
NUMBERS = st.integers(0, 2**64)
FILES = st.lists(st.builds(ReplacedFile, PATHS, NUMBERS, NUMBERS, NUMBERS), min_size=1)


@given(FILES)
def test_they_are_kept_until_the_boot_ends(files: list[ReplacedFile]) -> None:
    text = to_text(files, "boot-1")
    text.encode()  # it can be stored
    assert from_text(text, "boot-1") == files
    assert from_text(text, "boot-2") == []


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "{}", '{"boot": "b"}', '{"boot": "b", "files": [["/a", 1]]}', "7"]
)
def test_what_was_not_written_by_us_is_none(text: str) -> None:
    assert from_text(text, "b") == []


def test_no_files_are_no_text() -> None:
    assert to_text([], "boot-1") == ""


@pytest.mark.parametrize(
    ("running", "text"),
    [
        ({}, ""),
        (
            {"/opt/app/agent": [12]},
            "1 process runs software that a deployment has replaced: /opt/app/agent (pid 12): restart it",
        ),
        (
            {"/b": [9, 7, 8, 6], "/a\n": [5]},
            "5 processes run software that a deployment has replaced: /a\\n (pid 5), /b (pid 6 7 8 …):"
            " restart them",
        ),
        (
            {path: [1] for path in ("/e", "/d", "/c", "/b", "/a")},
            "5 processes run software that a deployment has replaced: /a (pid 1), /b (pid 1), /c (pid 1)"
            " and 2 more: restart them",
        ),
    ],
)
def test_a_user_is_told_what_to_restart(running: dict[str, list[int]], text: str) -> None:
    assert note(running) == text


@given(st.dictionaries(PATHS, st.lists(st.integers(1, 2**22), min_size=1)))
def test_what_is_told_is_short_and_can_be_shown(running: dict[str, list[int]]) -> None:
    shown = note(running)
    assert len(shown) < 3000 and shown.isprintable()
