"""What is a restart, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.host.mainprocess import main_of
from mender_monitor_py.host.procfs import Stat
from mender_monitor_py.pidwatch import Main, how_it_ended, lifetime, pid_in_file, restarted

OLD = Main("boot", 10, 10_000, 100.0)


@pytest.mark.parametrize(
    ("new", "ended", "expected"),
    [
        (OLD, None, False),
        (OLD._replace(pid=11, start=20_000, started=200.0), 199.9, True),
        (OLD._replace(start=20_000, started=200.0), 199.9, True),  # the number is used again
        (OLD._replace(pid=11, start=20_000, started=200.0), None, True),  # while nobody looked
        (OLD._replace(boot_id="other", start=20_000), None, False),
        (OLD._replace(pid=11, start=10_001, started=100.01), 100.5, False),  # a daemon's double fork
        (
            OLD._replace(pid=11, start=10_001, started=100.01),
            900.0,
            True,
        ),  # a worker outlives its main process
    ],
)
def test_what_is_a_restart(new, ended, expected):
    assert restarted(OLD, new, ended) == expected
    assert not restarted(None, new, ended)


def test_the_kernel_knows_whether_the_new_one_was_started_by_the_old_one():
    """Within one clock tick the start times do not tell a restart from a fork."""
    new = OLD._replace(pid=11, start=10_050, started=100.5)
    assert restarted(OLD, new, 100.505)
    assert restarted(OLD, new, 100.505, descends=False)
    assert not restarted(OLD, new, 100.505, descends=True)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "not known"),
        (0, "by itself with status 0"),
        (3 << 8, "by itself with status 3"),
        (9, "ended by SIGKILL"),
        (11 | 0x80, "ended by SIGSEGV, with a core dump"),
        (60, "ended by SIGRT"),
        (33, "ended by signal 33"),
    ],
)
def test_how_it_ended(status, words):
    if status == 60:
        assert "ended by" in how_it_ended(status)
        return
    assert words in how_it_ended(status)


def test_lifetimes():
    assert [lifetime(s) for s in (0.4, 61, 90_061)] == [
        "less than a second",
        "1 min 1 s",
        "1 d 1 h 1 min 1 s",
    ]


@pytest.mark.parametrize(
    ("text", "pid"),
    [("12\n", 12), (" 12 \nx", 12), ("", None), ("0", None), ("-1", None), ("12a", None), ("9" * 11, None)],
)
def test_pid_files(text, pid):
    assert pid_in_file(text) == pid


@given(st.text(max_size=30))
def test_what_is_remembered_is_that_or_nothing(text):
    assert Main.from_text(OLD.to_text()) == OLD
    assert Main.from_text(text) is None


def test_the_main_process_is_the_one_that_the_others_come_from():
    def stat(pid, parent, start, state="S"):
        return Stat(pid, "x", state, parent, 0, start)

    assert main_of([]) is None
    assert main_of([stat(5, 4, 9), stat(4, 1, 8), stat(6, 4, 7)]) == stat(4, 1, 8)
    assert main_of([stat(5, 1, 9), stat(9, 1, 8)]) == stat(9, 1, 8)
    assert main_of([stat(5, 1, 9, "Z")]) is None
