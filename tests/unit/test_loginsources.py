"""Who sent a message: what journald vouches for counts, and the place in a line of syslog."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.loginevents import CONSOLE, SSH, SU, SUDO
from mender_monitor_py.loginsources import HOLD_S, MAX_TEXT, Message, Records, entry, line, matches

ALL, NONE = "1fffeffffff", "0"
SUDO_OK = "   admin : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/id"


def journal(**fields: Any) -> bytes:
    """A line of journalctl; fields are written without their leading underscore."""
    named = {
        {"MESSAGE": "MESSAGE", "NAME": "SYSLOG_IDENTIFIER"}.get(name, f"_{name}"): value
        for name, value in fields.items()
    }
    return json.dumps({"__CURSOR": "s=1;i=1", "__REALTIME_TIMESTAMP": "1795634495163179", **named}).encode()


def sender(**fields: Any) -> str | None:
    """The method that a message with these fields is of, with a question mark where that is not proven."""
    found = entry(journal(MESSAGE="x", **fields))
    assert found is not None
    if found.message is None:
        return None
    return found.message.method + ("" if found.message.proven else "?")


@pytest.mark.parametrize(
    ("name", "exe", "uid", "capabilities", "method"),
    [
        ("sshd", "/usr/sbin/sshd", "0", "fcecafff", SSH),
        ("sshd", "/usr/sbin/sshd (deleted)", "0", "fcecafff", SSH),  # after an upgrade
        ("sshd-session", "/usr/lib/openssh/sshd-session", "0", "fcecafff", SSH),
        ("sshd-session", None, "0", None, SSH),  # gone already
        ("dropbear", "/usr/sbin/dropbearmulti", "0", ALL, SSH),
        ("sudo", "/usr/bin/sudo", "1000", ALL, SUDO),
        ("sudo", "/usr/bin/sudo", "0", ALL, SUDO),
        ("harmless", "/usr/bin/su", "1000", ALL, SU),  # by a link of that name
        ("su", "/bin/su.shadow", "1000", ALL, SU),
        ("su", "/bin/busybox.suid", "1000", ALL, SU),
        ("login", "/usr/bin/login", "0", ALL, CONSOLE),
        ("login", "/usr/bin/bash", "0", ALL, CONSOLE),  # what login became
        # Another program, by its executable
        ("sshd", "/usr/bin/logger", "1000", NONE, None),
        ("sshd", "/usr/bin/logger", "0", ALL, None),
        ("sudo", "/usr/bin/python3.11", "1000", NONE, None),
        ("login", "/usr/bin/bash", "1000", NONE, None),
        # Another user
        ("sshd", "/usr/sbin/sshd", "1000", NONE, None),
        ("sshd", "/usr/sbin/sshd", "1000", ALL, None),
        ("sshd", None, "1000", None, None),
        ("sshd", "/usr/sbin/sshd", None, ALL, None),
        # Without the rights of the program: it is traced
        ("sudo", "/usr/bin/sudo", "1000", NONE, None),
        ("sudo", "/usr/bin/sudo", "1000", "0000000000000000", None),
        ("su", "/bin/busybox", "1000", NONE, None),
        # Gone, and anybody
        ("sudo", None, "1000", None, "sudo?"),
        ("sudo", "/usr/bin/sudo", "1000", None, "sudo?"),
        ("su", None, "1000", None, "su?"),
        ("sudo", None, None, None, None),
        ("cron", "/usr/sbin/cron", "0", ALL, None),
        ("cron", None, "0", None, None),
    ],
)
def test_who_sent_it(
    name: str, exe: str | None, uid: str | None, capabilities: str | None, method: str | None
) -> None:
    fields = {"NAME": name, "EXE": exe, "UID": uid, "CAP_EFFECTIVE": capabilities, "COMM": "sshd"}
    assert sender(**{key: value for key, value in fields.items() if value is not None}) == method


def test_what_is_forged_is_counted() -> None:
    found = entry(journal(MESSAGE="x", NAME="sshd", EXE="/usr/bin/logger", UID="1000", CAP_EFFECTIVE=NONE))
    assert found is not None and found.forged
    found = entry(journal(MESSAGE="x", NAME="cron", EXE="/usr/sbin/cron", UID="0", CAP_EFFECTIVE=ALL))
    assert found is not None and not found.forged


def test_what_journald_did_not_take_is_said() -> None:
    """
    By journald alone: the transport is a field of its own.
    """
    told = {"MESSAGE": "Suppressed 6000 messages from ssh.service", "NAME": "systemd-journald"}
    found = entry(journal(TRANSPORT="driver", **told))
    assert found is not None and found.suppressed == told["MESSAGE"]
    found = entry(journal(TRANSPORT="syslog", UID="1000", **told))
    assert found is not None and not found.suppressed


def test_a_message_that_is_no_text() -> None:
    """
    journalctl shows bytes that are no UTF-8 as numbers, and several values of a field as a list.
    """
    root = {"NAME": "sshd", "EXE": "/usr/sbin/sshd", "UID": "0"}
    for value, text in (
        ([255, 0, 65], "\udcff\0A"),
        (["one", "two"], ""),
        ([256], ""),
        ([True], ""),
        (None, ""),
        ({"a": 1}, ""),
        ("x" * 1_000_000, "x" * MAX_TEXT),
    ):
        found = entry(journal(MESSAGE=value, **root))
        assert found is not None and found.message is not None
        assert found.message.text == text


@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
            ),
        ).map(lambda value: json.dumps(value).encode()),
        st.dictionaries(
            st.sampled_from(
                ("__CURSOR", "MESSAGE", "SYSLOG_IDENTIFIER", "_UID", "_GID", "_EXE", "_CAP_EFFECTIVE", "_PID")
            ),
            st.none() | st.integers() | st.text(max_size=20) | st.lists(st.integers(-1, 300), max_size=5),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_nothing_that_is_printed_is_too_odd(printed: bytes) -> None:
    entry(printed)
    line(printed)


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ("Nov 25 19:24:10 vm sshd[12]: Accepted x", SSH, "Accepted x"),
        ("Nov  5 19:24:10 vm sudo:    admin : TTY=x", SUDO, "   admin : TTY=x"),
        ("2026-11-25T19:24:10.123456+00:00 vm sshd-session[12]: Accepted x", SSH, "Accepted x"),
        ("Nov 25 19:24:10 vm authpriv.notice su[3]: (to root) x on y", SU, "(to root) x on y"),
        ("Nov 25 19:24:10 vm login[3]: ROOT LOGIN", CONSOLE, "ROOT LOGIN"),
        ("Nov 25 19:24:10 vm app[12]: sshd[12]: Accepted x", None, ""),
        ("Nov 25 19:24:10 vm app: Nov 25 19:24:10 vm sshd[12]: Accepted x", None, ""),
        ("Nov 25 19:24:10 vm sshd: Accepted x", None, ""),  # sshd always says its pid
        ("sshd[12]: Accepted x", None, ""),
        ("x Nov 25 19:24:10 vm sshd[12]: Accepted x", None, ""),
    ],
)
def test_the_name_in_a_line_counts_in_its_place(text: str, method: str | None, message: str) -> None:
    found = line(text.encode())
    assert (found.method if found else None, found.text if found else "") == (method, message)


def test_lines_that_syslog_counted() -> None:
    found = line(b"Nov 25 19:24:10 vm sshd[12]: message repeated 3 times: [ Failed password for root]")
    assert found is not None
    assert (found.times, found.text) == (3, "Failed password for root")


def said(text: str, pid: str = "1", **others: Any) -> Message:
    return Message(SUDO, text, 1000, "now", pid, "", **others)


def test_what_sudo_writes_in_several_messages_is_one() -> None:
    """
    Also when others write in between; what comes without its begin is left out.
    """
    records = Records()
    assert records.take(said("   admin : (command continued) lost"), 0) == []
    assert records.take(said("   admin : TTY=pts/0 ;"), 0) == []
    assert records.take(said("   bob : TTY=pts/1 ; PWD=/ ; USER=root ; COMMAND=/bin/x", "2"), 0) == []
    assert records.take(said("   admin : (command continued) PWD=/aaa ;"), 0) == []
    assert records.take(said("   admin : (command continued) USER=root ; COMMAND=/bin/sh"), 0.4) == []
    session = said("pam_unix(sudo:session): session opened")
    whole = records.take(session, 0.4)
    assert whole == [said("   admin : TTY=pts/0 ; PWD=/aaa ; USER=root ; COMMAND=/bin/sh"), session]
    assert records.due(HOLD_S - 0.01) == []
    assert [message.pid for message in records.due(HOLD_S)] == ["2"]
    assert not records


def test_the_session_of_sudo_proves_what_it_ran() -> None:
    """
    Its group is root's by then, which no other process of that user can have.
    """
    for gid, proven in ((0, True), (1000, False), (None, False)):
        records = Records()
        records.take(said(SUDO_OK, proven=False), 0)
        whole = records.take(said("pam_unix(sudo:session): session opened", gid=gid), 0)
        assert whole[0].proven == proven


def test_what_is_held_is_bounded() -> None:
    records = Records()
    whole = [message for pid in range(1000) for message in records.take(said(SUDO_OK, str(pid)), 0)]
    assert len(whole) == 900
    records.take(said("   admin : (command continued) " + "x" * 2 * MAX_TEXT, "999"), 0)
    assert max(len(message.text) for message in records.due(1)) == MAX_TEXT


def test_the_executables_count_whatever_they_are_called_by() -> None:
    assert matches(["/usr/bin/su"])[-3:] == ["+", "_TRANSPORT=syslog", "_EXE=/usr/bin/su"]
    assert matches([]).count("+") == 1
