"""What somebody else put in the place of a file is neither waited for nor left open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.lists import read_list
from mender_monitor_py.host.regularfile import open_regular


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_no_file_is_none(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "x")
    with pytest.raises(UnknownError, match="x cannot be read: not a regular file"):
        read_list(tmp_path / "x")


def test_a_link_is_followed_unless_it_must_not_be(tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "link", follow=False)
