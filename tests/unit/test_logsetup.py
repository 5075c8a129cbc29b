"""Where the log goes."""

import logging
from collections.abc import Iterator

import pytest

from mender_monitor_py import logsetup


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = before, level


def test_the_journal_gets_priorities_and_no_control_characters(capsys, monkeypatch):
    """
    Each line has its priority, and what a stranger wrote cannot forge another line's or move a terminal.
    """
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logsetup.set_up("INFO", "")
    log = logging.getLogger("test")
    log.warning("odd line: %s", "a\x1b[2Jb\rc")
    log.debug("hidden")
    log.error("two\nlines")
    assert capsys.readouterr().err == "<4>odd line: a\\x1b[2Jb\\rc\n<3>two\n<3>lines\n"


def test_a_file_does_not_grow_for_ever(tmp_path):
    """
    DAEMON_LOG_FILE is kept to a megabyte and one older file.
    """
    file = tmp_path / "monitor.log"
    logsetup.set_up("DEBUG", str(file))
    for _ in range(300):
        logging.getLogger("test").debug("x" * 10_000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["monitor.log", "monitor.log.1"]
    assert all(p.stat().st_size <= 1024 * 1024 for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("level", "shown"), [("TRACE", 10), ("DEBUG", 10), ("info", 20), ("WARN", 30), ("FATAL", 50), ("odd", 20)]
)
def test_the_levels_of_the_settings(level, shown):
    """
    CONFIG_LOG_LEVEL has the original's words.
    """
    logsetup.set_up(level, "")
    assert logging.getLogger().level == shown


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    """
    The caller learns of it, and says so.
    """
    with pytest.raises(OSError):
        logsetup.set_up("INFO", str(tmp_path / "no/folder/log"))
