"""What somebody else put in the place of a file is neither waited for nor left open."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from mender_monitor_py import filehash
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.inotify import Event, Inotify
from mender_monitor_py.host.lists import read_list
from mender_monitor_py.host.regularfile import open_regular

IN_OPEN = 0x20  # <linux/inotify.h>


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


def test_what_is_no_file_is_not_opened_at_all(tmp_path):
    """
    A device may do something when it is opened. A link that a user makes leads there.
    """
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "file").touch()
    opened = []

    def tell(name: str, _: Event) -> None:
        opened.append(name)

    async def story() -> None:
        with closing(Inotify()) as watcher:
            for name in ("pipe", "file"):
                watcher.watch(tmp_path / name, IN_OPEN, partial(tell, name))
            for name in ("pipe", "link"):
                with pytest.raises(OSError, match="not a regular file"):
                    open_regular(tmp_path / name)
                assert filehash._hashed(str(tmp_path / name), bytearray(10), 0) == ("kind: a pipe",)
            open_regular(tmp_path / "file").close()
            while not opened:
                await asyncio.sleep(0.01)

    asyncio.run(story())
    assert set(opened) == {"file"}
