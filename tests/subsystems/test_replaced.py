"""Real processes whose file is replaced or removed: which are found, and which are taken for known ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mender_monitor_py.host import replaced
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.replaced import Orphan, Replaced, orphans


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy("/bin/sleep", tmp_path / "agent"))


@pytest.fixture
def process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([path, "600"]) as made:
        try:
            yield made
        finally:
            made.kill()


def orphan(pid: int) -> Orphan | None:
    return next((one for one in orphans(Procfs()) if one.pid == pid), None)


def wait_for(path: Path) -> int:
    """The process that runs *path*, once it does."""
    procfs, until = Procfs(), time.monotonic() + 30
    while time.monotonic() < until:
        for pid in procfs.pids():
            with suppress(PermissionError):
                if procfs.executable(pid) == str(path):
                    return pid
        time.sleep(0.02)
    raise TimeoutError(path)


def replace(path: Path) -> None:
    """Another file is at *path*; the old one has no name any more."""
    shutil.copy("/bin/sleep", path.with_name("new"))
    path.with_name("new").rename(path)


def test_a_process_whose_file_is_gone_is_found_with_the_times_that_count(
    path: Path, process: subprocess.Popen[bytes]
) -> None:
    assert orphan(process.pid) is None
    time.sleep(0.1)
    before = time.time()
    path.unlink()
    found = orphan(process.pid)
    assert found is not None and found.paths == (str(path),)
    assert before - 0.1 <= found.removed <= time.time()
    assert found.started < time.clock_gettime(time.CLOCK_BOOTTIME) - 0.09


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
@pytest.mark.parametrize(
    ("own", "found"),
    [("--mount", True), ("--mount --user", False), ("--mount --pid --fork --kill-child", False)],
)
def test_only_root_can_make_a_path_look_like_another(path: Path, own: str, found: bool) -> None:
    """
    A service in a mount namespace is of this system. What a user or a container calls by its path is none.
    """
    with subprocess.Popen(["unshare", *own.split(), str(path), "600"]) as process:
        try:
            pid = wait_for(path)
            path.unlink()
            one = orphan(pid)
            assert (one is not None) == found
            assert one is None or one.paths[0] == str(path)
        finally:
            process.kill()


def test_a_name_that_ends_like_that_of_a_removed_file_is_none(path: Path) -> None:
    odd = path.rename(path.with_name("agent (deleted)"))
    with subprocess.Popen([odd, "600"]) as process:
        assert orphan(process.pid) is None
        process.kill()


def test_a_child_of_the_old_software_is_known_and_the_next_replaced_file_is_not(
    path: Path, process: subprocess.Popen[bytes]
) -> None:
    """
    What runs the very file is: by a fork, or through /proc. Another file of the same path is a finding.
    """
    known = Replaced(Procfs())
    replace(path)
    found = orphan(process.pid)
    assert found is not None and known.path(process.pid) == ""
    known.add([found.file])
    with (
        subprocess.Popen([f"/proc/{process.pid}/exe", "600"]) as child,
        subprocess.Popen([path, "600"]) as new,
    ):
        path.unlink()
        assert known.path(process.pid) == known.path(child.pid) == str(path)
        assert orphan(new.pid) is not None and known.path(new.pid) == ""
        child.kill()
        new.kill()


def test_what_nobody_runs_any_more_is_forgotten_and_the_rest_has_a_bound(
    path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Replaced(Procfs())
    times: list[int] = []
    undo = known.listen(lambda: times.append(len(known.files)))
    replace(path)
    with subprocess.Popen([path, "600"]) as other:
        path.unlink()
        files = [one.file for one in map(orphan, (process.pid, other.pid)) if one is not None]
        monkeypatch.setattr(replaced, "MOST", 1)
        known.add(files)
        assert known.files == files[:1]
        monkeypatch.undo()
        known.add(files)
        assert known.files == files
        process.kill()
        process.wait()
        known.add([])
        assert known.files == files[1:]
        other.kill()
    undo()
    known.add([])
    assert known.files == [] and times == [1, 2, 1]
