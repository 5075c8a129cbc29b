"""Files that come to be together, or not at all."""

import os
import signal

import pytest

from mender_monitor_py.host.stagedfiles import StagedFiles


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def test_nothing_shows_before_the_commit_and_all_after_it(tmp_path):
    with StagedFiles() as staged:
        staged.file(tmp_path / "lists/a.list", b"a")
        staged.link(tmp_path / "enabled/a.sh", tmp_path / "a.sh")
        assert all(name.startswith(".") for name in names(tmp_path))
        staged.commit()
        assert names(tmp_path) == ["a.list", "a.sh"]
    assert names(tmp_path) == ["a.list", "a.sh"]
    assert (tmp_path / "lists/a.list").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "enabled/a.sh").readlink() == tmp_path / "a.sh"


def test_without_a_commit_nothing_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt), StagedFiles() as staged:
        staged.file(tmp_path / "a", b"a")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_stays_when_a_signal_ends_the_program(tmp_path, number):
    before = signal.signal(number, signal.SIG_DFL)  # under nohup(1) it would be ignored
    try:
        with pytest.raises(SystemExit) as ended, StagedFiles() as staged:
            staged.file(tmp_path / "a", b"a")
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number
    assert names(tmp_path) == []


def test_an_error_takes_back_what_was_done(tmp_path):
    (tmp_path / "a").write_text("before")
    (tmp_path / "c").mkdir()  # a file cannot take the place of a folder
    with pytest.raises(OSError), StagedFiles() as staged:
        staged.file(tmp_path / "a", b"after")
        staged.link(tmp_path / "b", tmp_path / "a")
        staged.file(tmp_path / "c", b"c")
        staged.commit()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_what_a_killed_run_has_left_is_in_nobodys_way(tmp_path):
    (tmp_path / ".a.staged").write_text("old")
    with StagedFiles() as staged:
        staged.file(tmp_path / "a", b"new")
        staged.commit()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "new"


def test_a_signal_waits_for_the_end_of_the_commit(tmp_path, monkeypatch):
    """
    It comes while the first of two files is renamed; both are there when it takes effect.
    """
    seen = []

    def interrupted(*_):
        seen.append(names(tmp_path))

    before = signal.signal(signal.SIGTERM, interrupted)
    rename = type(tmp_path).replace

    def replace(path, target):
        os.kill(os.getpid(), signal.SIGTERM)
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    try:
        with StagedFiles() as staged:
            staged.file(tmp_path / "a", b"")
            staged.file(tmp_path / "b", b"")
            staged.commit()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [["a", "b"]]
