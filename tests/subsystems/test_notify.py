"""What the service manager is told, by its protocol."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mender_monitor_py.host.notify import Notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_the_manager_hears_each_state(manager):
    """
    READY, a status of one line, signs of life, a reload with its time, and the end.
    """
    notify = Notify()
    notify.ready()
    notify.status("70 checks\nFDSTORE=1")
    notify.alive()
    notify.reloading()
    notify.stopping()
    heard = [manager.recv(4096).decode() for _ in range(5)]
    assert heard[:3] == ["READY=1", "STATUS=70 checks FDSTORE=1", "WATCHDOG=1"]
    reloading, since = heard[3].splitlines()
    assert reloading == "RELOADING=1" and since.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert heard[4] == "STOPPING=1"


def test_an_abstract_socket(monkeypatch):
    """
    The manager's socket may have no file.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0monitor-test-{os.getpid()}")
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@monitor-test-{os.getpid()}")
        Notify().ready()
        assert sock.recv(100) == b"READY=1"


def test_children_do_not_inherit_the_socket(manager):
    """
    Commands of checks cannot speak for the daemon.
    """
    Notify()
    assert "NOTIFY_SOCKET" not in os.environ


def test_a_watchdog_is_for_the_process_it_names(manager, monkeypatch):
    """
    The watchdog's time is in seconds; another process's watchdog is not ours.
    """
    for pid, expected in ((str(os.getpid()), 120.0), ("1", 0.0), ("", 120.0)):
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        monkeypatch.setenv("WATCHDOG_PID", pid)
        monkeypatch.setenv("WATCHDOG_USEC", "120000000")
        assert Notify().watchdog == expected


def test_no_manager_or_one_that_is_gone(tmp_path, monkeypatch):
    """
    Without a manager, or while it restarts, nothing is wrong.
    """
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notify().ready()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notify().ready()
