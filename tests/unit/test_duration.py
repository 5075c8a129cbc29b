"""Durations as users write them."""

from __future__ import annotations

import pytest

from mender_monitor_py.duration import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16", 16), ("0", 0), ("90s", 90), ("5m", 300), ("2h", 7200), ("2d", 172_800), ("007", 7)],
)
def test_a_number_and_its_unit(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-5", "1.5", "2 d", "2w", "2dd", "²", "1e3", "9" * 10, "٣"])
def test_anything_else_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of seconds"):
        seconds(text)
