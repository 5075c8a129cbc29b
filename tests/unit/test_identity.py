"""The output of the identity script."""

from __future__ import annotations

import pytest

from mender_monitor_py.identity import id_data


def test_lines_become_sorted_json_and_repeated_keys_lists() -> None:
    assert id_data("serial=7\nmac=a=b\n\nmac=c\nmac=d\n") == '{"mac":["a=b","c","d"],"serial":"7"}'


@pytest.mark.parametrize("output", ["", "\n", "mac\n", "=value\n"])
def test_anything_else_is_refused(output: str) -> None:
    with pytest.raises(ValueError, match="identity script"):
        id_data(output)
