"""What scripts leave for the daemon."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from mender_monitor_py.host import spool


def test_what_cannot_be_read_now_is_read_later(tmp_path: Path) -> None:
    """
    A daemon that has no file descriptor left removes nothing that it has not read.
    """
    for name in ("1", "2", "3"):
        (tmp_path / name).write_text(name)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = spool.read(tmp_path, 10)
    assert next(found)[1] == b"1"
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert list(found) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [data for _, data, _ in spool.read(tmp_path, 10)] == [b"1", b"2", b"3"]


def test_what_is_no_file_is_removed(tmp_path: Path) -> None:
    """
    A link and a pipe: nobody has queued anything there.
    """
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "word").write_text("word")
    assert [data for _, data, _ in spool.read(tmp_path, 10)] == [b"word"]
    assert [path.name for path in tmp_path.iterdir()] == ["word"]
