"""What LOGIN_ALLOW expects."""

from __future__ import annotations

import pytest

from mender_monitor_py.baseline import inline
from mender_monitor_py.loginallow import Entry, begins_entry, expected
from mender_monitor_py.loginevents import CONSOLE, SSH, SUDO, parse

TTY = "   admin : TTY=pts/0 ; PWD={folder} ; USER=root ; COMMAND={command}"


def allow(text: str) -> tuple[Entry, ...]:
    return inline(text, Entry.parse, begins_entry)


def ssh(entries: str, user: str, address: str) -> bool:
    readings = parse(SSH, f"Accepted password for {user} from {address} port 1 ssh2")
    return expected(readings, "", allow(entries))


def sudo(entries: str, command: str, folder: str = "/", by: str = "admin") -> bool:
    return expected(parse(SUDO, TTY.format(folder=folder, command=command)), by, allow(entries))


@pytest.mark.parametrize(
    ("entries", "address", "allowed"),
    [
        ("ssh root 10.0.0.0/8", "10.1.2.3", True),
        ("ssh root 10.0.0.0/8", "11.1.2.3", False),
        ("ssh root 10.0.0.5/8", "10.1.2.3", True),
        ("ssh root 10.0.0.5", "10.0.0.5", True),
        ("ssh root 10.0.0.5", "10.0.0.6", False),
        ("ssh root 10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("ssh root 2001:db8::/32", "2001:db8::7", True),
        ("ssh root fe80::/10", "fe80::1%eth0", True),
        ("ssh root 10.0.0.0/8", "2001:db8::7", False),
        ("ssh root 0.0.0.0/0", "UNKNOWN", False),
        ("ssh root", "UNKNOWN", True),
        ("ssh *", "10.0.0.1", True),
        ("ssh admin", "10.0.0.1", False),
        ("su root, console root, sudo root", "10.0.0.1", False),
        ("ssh root 192.168.0.0/16 ssh root 10.0.0.0/8", "10.0.0.1", True),
        ("", "10.0.0.1", False),
    ],
)
def test_ssh(entries: str, address: str, allowed: bool) -> None:
    assert ssh(entries, "root", address) == allowed


@pytest.mark.parametrize(
    ("entries", "command", "allowed"),
    [
        ("sudo admin /usr/bin/systemctl*", "/usr/bin/systemctl restart app", True),
        ("sudo admin /usr/bin/systemctl*", "/usr/bin/systemctl cat /etc/x", True),
        ("sudo admin /usr/bin/systemctl*", "/usr/bin/bash", False),
        ("sudo admin /usr/bin/*", "/usr/bin/../../tmp/x", False),
        ("sudo admin /usr/bin/**", "/usr/bin/../../tmp/x", False),
        ("sudo admin /usr/bin/*", "/usr/bin/x/y", False),
        ("sudo admin /usr/bin/systemctl restart app*", "/usr/bin/systemctl restart app/x -f", True),
        ("sudo admin /usr/bin/systemctl restart app*", "/usr/bin/systemctl stop app", False),
        ('sudo admin /usr/bin/id ""', "/usr/bin/id", True),
        ('sudo admin /usr/bin/id ""', "/usr/bin/id -u", False),
        ("sudo admin", "/bin/sh", True),
        ("sudo bob", "/bin/sh", False),
        ("sudo *", "/bin/sh", True),
        ("sudo admin sudoedit /etc/hosts", "sudoedit /etc/hosts", True),
        ("sudo admin sudoedit /etc/hosts", "sudoedit /etc/shadow", False),
        # Read in another way, it is something that nobody listed.
        ("sudo admin /usr/bin/systemctl*", "/usr/bin/systemctl x ; COMMAND=/bin/sh", False),
    ],
)
def test_sudo(entries: str, command: str, allowed: bool) -> None:
    assert sudo(entries, command) == allowed


def test_a_folder_that_looks_like_an_expected_command_is_none() -> None:
    entries = "sudo admin /usr/bin/systemctl*"
    for folder in (
        "/tmp/ ; USER=root ; COMMAND=/usr/bin/systemctl",
        "/tmp/ ; COMMAND=/usr/bin/systemctl ; USER=nobody ; COMMAND=/usr/bin/systemctl",
    ):
        assert not sudo(entries, "/bin/sh", folder)


def test_su_and_console() -> None:
    (su,) = parse("su", "(to root) operator on pts/0")
    assert expected((su,), "operator", allow("su operator"))
    assert not expected((su,), "mallory", allow("su operator"))
    console = parse(CONSOLE, "ROOT LOGIN ON ttyS0")
    assert expected(console, "", allow("console root ttyS*"))
    assert expected(console, "", allow("console root"))
    assert not expected(console, "", allow("console root tty1"))


@pytest.mark.parametrize(
    "entries",
    [
        "telnet root",
        "ssh",
        "ssh root nonsense",
        "ssh root 10.0.0.0/99",
        "ssh root 10.0.0.0/8 x",
        "su a b",
        "console a b c",
    ],
)
def test_entries_that_say_nothing(entries: str) -> None:
    with pytest.raises(ValueError, match=entries.split()[0]):
        allow(entries)
