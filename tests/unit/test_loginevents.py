"""What the messages of sshd, sudo, su and login say, and what an attacker can make them say."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mender_monitor_py.loginevents import CONSOLE, METHODS, SSH, SU, SUDO, Connections, Login, Stage, parse

KEY = "ED25519 SHA256:ydho4b7UnbDPY8D1nlNNOm3xpfTeuKjaBgujYLfyzKk"
NAMES = st.text(max_size=100)
# What would be worth forging.
PARTS = st.sampled_from(
    (
        "root",
        " from 6.6.6.6 port 22 ssh2",
        "Accepted password for root from 6.6.6.6 port 22 ssh2",
        ": ",
        "\n",
        "invalid user ",
        " [preauth]",
        "6.6.6.6 port 22",
        " ; USER=root",
        " ; USER=nobody",
        " ; COMMAND=/bin/true",
        "TTY=pts/9 ; PWD=/",
        " ; TTY=x",
        ") root on pts/9",
        "(to root) ",
        "FOR 'root', ",
        "', ",
        " : ",
        "x",
    )
)
HOSTILE = NAMES | st.lists(PARTS, max_size=6).map("".join)


def one(method: str, message: str) -> Login:
    (login,) = parse(method, message)
    return login


@pytest.mark.parametrize(
    ("message", "stage", "user", "address", "port", "how"),
    [
        (
            f"Accepted publickey for root from 127.0.0.1 port 40710 ssh2: {KEY}",
            Stage.ACCEPTED,
            "root",
            "127.0.0.1",
            40710,
            f"publickey {KEY}",
        ),
        (
            "Accepted password for root from 2001:db8::1 port 1 ssh2",
            Stage.ACCEPTED,
            "root",
            "2001:db8::1",
            1,
            "password",
        ),
        (
            "Failed password for root from 10.0.0.5 port 55 ssh2",
            Stage.REFUSED,
            "root",
            "10.0.0.5",
            55,
            "password",
        ),
        (
            f"Failed publickey for root from 10.0.0.5 port 55 ssh2: {KEY}",
            Stage.TRIED,
            "root",
            "10.0.0.5",
            55,
            f"publickey {KEY}",
        ),
        (
            "Failed password for invalid user bob from 10.0.0.5 port 55 ssh2",
            Stage.REFUSED,
            "bob",
            "10.0.0.5",
            55,
            "",
        ),
        ("Invalid user bob from 10.0.0.5 port 55", Stage.ANNOUNCED, "bob", "10.0.0.5", 55, ""),
        ("Invalid user  from 10.0.0.5 port 55", Stage.ANNOUNCED, "", "10.0.0.5", 55, ""),
        ("ROOT LOGIN REFUSED FROM 10.0.0.5 port 55 [preauth]", Stage.ANNOUNCED, "root", "10.0.0.5", 55, ""),
        (
            "Connection closed by authenticating user root 10.0.0.5 port 55 [preauth]",
            Stage.CLOSED,
            "root",
            "10.0.0.5",
            55,
            "",
        ),
        (
            "Connection closed by invalid user root 10.0.0.5 port 55 [preauth]",
            Stage.CLOSED,
            "root",
            "10.0.0.5",
            55,
            "",
        ),
        (
            "Disconnecting authenticating user root 10.0.0.5 port 55: "
            "Too many authentication failures [preauth]",
            Stage.CLOSED,
            "root",
            "10.0.0.5",
            55,
            "",
        ),
        (
            "error: maximum authentication attempts exceeded for root from 10.0.0.5 port 55 ssh2 [preauth]",
            Stage.CLOSED,
            "root",
            "10.0.0.5",
            55,
            "",
        ),
        ("fatal: Timeout before authentication for 10.0.0.5 port 55", Stage.CLOSED, "", "10.0.0.5", 55, ""),
        (
            "Password auth succeeded for 'root' from 10.0.0.5:55",
            Stage.ACCEPTED,
            "root",
            "10.0.0.5",
            55,
            "password",
        ),
        (
            "Pubkey auth succeeded for 'root' with ssh-ed25519 key SHA256:abc from ::1:55",
            Stage.ACCEPTED,
            "root",
            "::1",
            55,
            "publickey ssh-ed25519 SHA256:abc",
        ),
        ("Bad password attempt for 'root' from 10.0.0.5:55", Stage.REFUSED, "root", "10.0.0.5", 55, ""),
        ("Login attempt for nonexistent user from 10.0.0.5:55", Stage.REFUSED, "", "10.0.0.5", 55, ""),
    ],
)
def test_ssh(message: str, stage: Stage, user: str, address: str, port: int, how: str) -> None:
    login = one(SSH, message)
    assert (login.stage, login.user, login.address, login.port) == (stage, user, address, port)
    assert login.how in (how, "password")


@pytest.mark.parametrize(
    "message",
    [
        "Server listening on 0.0.0.0 port 22.",
        "Postponed publickey for root from 127.0.0.1 port 56666 ssh2 [preauth]",
        "Partial publickey for root from 127.0.0.1 port 56666 ssh2: RSA SHA256:x",
        "Disconnected from user root 127.0.0.1 port 40710",
        "pam_unix(sshd:session): session opened for user root(uid=0) by (uid=0)",
        "User root from evil.example not allowed because listed in DenyUsers",
        "drop connection #0 from [127.0.0.1]:58610 on [127.0.0.1]:22 penalty: failed authentication",
        "x Accepted password for root from 127.0.0.1 port 1 ssh2",
    ],
)
def test_what_is_no_login(message: str) -> None:
    assert parse(SSH, message) == ()


@given(HOSTILE)
def test_the_name_of_no_user_forges_neither_address_nor_user_nor_success(name: str) -> None:
    """
    sshd shows 100 characters of it, with control characters escaped; here they are not.
    """
    for message in (
        f"Invalid user {name} from 10.0.0.5 port 4711",
        f"Failed password for invalid user {name} from 10.0.0.5 port 4711 ssh2",
        f"Failed none for invalid user {name} from 10.0.0.5 port 4711 ssh2 [preauth]",
    ):
        login = one(SSH, message)
        assert (login.user, login.address, login.port, login.known) == (name, "10.0.0.5", 4711, False)
        assert not login.accepted
    for message in (
        f"Connection closed by invalid user {name} 10.0.0.5 port 4711 [preauth]",
        f"Disconnecting invalid user {name} 10.0.0.5 port 4711: Too many authentication failures [preauth]",
    ):
        for login in parse(SSH, message):
            assert (login.stage, login.address, login.port) == (Stage.CLOSED, "10.0.0.5", 4711)
            assert login.user == name
    assert not [login for login in parse(SSH, f"User {name} from h not allowed because x") if login.accepted]


@given(HOSTILE)
def test_the_comment_of_a_certificate_forges_no_address(comment: str) -> None:
    message = (
        f"Failed publickey for root from 10.0.0.5 port 4711 ssh2: RSA-CERT SHA256:x ID {comment} (serial 0)"
    )
    login = one(SSH, message)
    assert (login.user, login.address, login.port, login.accepted) == ("root", "10.0.0.5", 4711, False)


@given(st.sampled_from(METHODS), HOSTILE)
def test_no_message_is_too_odd(method: str, message: str) -> None:
    for login in parse(method, message):
        Connections().judge(login)


def judged(*messages: str) -> list[str]:
    connections = Connections()
    logins = [login for message in messages for login in parse(SSH, message)]
    events = [connections.judge(login) for login in logins]
    return [f"{event.user} {event.stage.value}" for event in events if event is not None]


def test_an_attempt_is_counted_once() -> None:
    """
    sshd has several lines for most of them.
    """
    at = "10.0.0.5 port 55"
    closed = f"Connection closed by authenticating user root {at} [preauth]"
    failed, key = (
        f"Failed password for root from {at} ssh2",
        f"Failed publickey for root from {at} ssh2: {KEY}",
    )
    assert judged(failed, failed, closed) == ["root refused"] * 2
    assert judged(closed) == ["root refused"]
    assert judged(key, key, closed) == ["root refused"]
    assert judged(key, f"Timeout before authentication for {at}") == ["root refused"]
    assert judged(f"Timeout before authentication for {at}") == []
    refused = f"ROOT LOGIN REFUSED FROM {at}"
    assert judged(refused, f"{refused} [preauth]", closed) == ["root refused"]
    invalid = (f"Invalid user bob from {at}", f"Failed password for invalid user bob from {at} ssh2")
    assert judged(*invalid) == ["bob refused"]
    assert judged(*invalid, invalid[1]) == ["bob refused"] * 2


def test_a_key_that_is_followed_by_the_right_one_is_no_refusal() -> None:
    """
    A client offers all its keys in turn.
    """
    at = "10.0.0.5 port 55"
    key = f"Failed publickey for root from {at} ssh2: {KEY}"
    assert judged(key, key, f"Accepted publickey for root from {at} ssh2: {KEY}") == ["root accepted"]


def test_connections_are_bounded() -> None:
    connections = Connections()
    for port in range(1, 60_000):
        (login,) = parse(SSH, f"Failed password for root from 10.0.0.5 port {port} ssh2")
        assert connections.judge(login) is not None
    assert len(connections._open) <= 1000


@pytest.mark.parametrize(
    ("message", "by", "user", "commands", "reason"),
    [
        (
            "   admin : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/id -u",
            "admin",
            "root",
            ("/usr/bin/id -u",),
            "",
        ),
        (
            "   admin : TTY=unknown ; PWD=/root ; USER=#0 ; COMMAND=/bin/bash",
            "admin",
            "root",
            ("/bin/bash",),
            "",
        ),
        ("   admin : PWD=/ ; USER=root ; COMMAND=/bin/bash", None, None, None, None),
        ("   admin : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=list", None, None, None, None),
        ("   admin : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=list /bin/ls", None, None, None, None),
        (
            "   admin : 2 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/id",
            "admin",
            "root",
            ("/usr/bin/id",),
            "2 incorrect password attempts",
        ),
        (
            " mallory : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/id",
            "mallory",
            "root",
            ("/usr/bin/id",),
            "user NOT in sudoers",
        ),
        (
            "   admin : command not allowed ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=sudoedit /etc/hosts",
            "admin",
            "root",
            ("sudoedit /etc/hosts",),
            "command not allowed",
        ),
        (
            "   admin : unknown user operator ; TTY=pts/0 ; PWD=/ ; USER=operator ;",
            "admin",
            "operator",
            (),
            "unknown user operator",
        ),
        (
            "   admin : unable to resolve host vm: Temporary failure in name resolution",
            None,
            None,
            None,
            None,
        ),
        ("   admin : (command continued) TTY=x ; USER=root ; COMMAND=/bin/sh", None, None, None, None),
        ("pam_unix(sudo:session): session opened for user root(uid=0) by (uid=1000)", None, None, None, None),
    ],
)
def test_sudo(
    message: str, by: str | None, user: str | None, commands: tuple[str, ...] | None, reason: str | None
) -> None:
    found = parse(SUDO, message)
    if by is None:
        assert found == ()
        return
    (login,) = found
    assert (login.by, login.user, login.commands, login.reason) == (by, user, commands, reason)
    assert login.accepted == (reason == "")


@given(HOSTILE, HOSTILE)
@example(" ; USER=nobody", "")
@example("' ; USER=0'", "")
def test_neither_folder_nor_command_of_sudo_hides_the_truth(folder: str, arguments: str) -> None:
    """
    Whatever they look like, the true user and command are among the readings, and it is no refusal.
    """
    message = f"   admin : TTY=pts/0 ; PWD=/{folder} ; USER=root ; COMMAND=/bin/sh {arguments}"
    readings = parse(SUDO, message)
    assert readings
    assert all(login.by == "admin" and login.accepted and login.tty == "pts/0" for login in readings)
    assert "root" in {login.user for login in readings}
    assert any(f"/bin/sh {arguments}" in login.commands for login in readings)


@pytest.mark.parametrize(
    ("message", "accepted", "by", "user"),
    [
        ("(to root) mallory on pts/0", True, "mallory", "root"),
        ("FAILED SU (to root) mallory on pts/0", False, "mallory", "root"),
        ("(to root)  on none", True, "", "root"),
        ("+ /dev/pts/0 mallory:root", True, "mallory", "root"),
        ("- pts/0 mallory-root", None, "", ""),
        ("- pts/0 mallory:root", False, "mallory", "root"),
    ],
)
def test_su(message: str, accepted: bool | None, by: str, user: str) -> None:
    found = parse(SU, message)
    if accepted is None:
        assert found == ()
        return
    assert [(login.accepted, login.by, login.user) for login in found] == [(accepted, by, user)]


@given(HOSTILE)
def test_the_name_that_su_was_given_is_no_success(name: str) -> None:
    login = one(SU, f"FAILED SU (to {name}) mallory on pts/0")
    assert (login.accepted, login.user, login.by, login.tty) == (False, name, "mallory", "pts/0")


@pytest.mark.parametrize(
    ("message", "accepted", "user", "tty"),
    [
        ("ROOT LOGIN  on '/dev/pts/0'", True, "root", "pts/0"),
        ("ROOT LOGIN ON ttyS0", True, "root", "ttyS0"),
        ("ROOT LOGIN ON pts/0 FROM host.example", True, "root", "pts/0"),
        ("root login on 'ttyS0'", True, "root", "ttyS0"),
        ("FAILED LOGIN (1) on '/dev/pts/0' FOR 'root', Authentication failure", False, "root", "pts/0"),
        ("FAILED LOGIN 1 FROM pts/0 FOR root, Authentication failure", False, "root", "pts/0"),
        ("FAILED LOGIN SESSION FROM ttyS0 FOR root, Error in service module", False, "root", "ttyS0"),
        ("TOO MANY LOGIN TRIES (5) FROM ttyS0 FOR root, Authentication failure", False, "root", "ttyS0"),
        ("invalid password for 'root' on 'ttyS0'", False, "root", "ttyS0"),
        (
            "pam_unix(login:session): session opened for user admin(uid=1000) by admin(uid=0)",
            True,
            "admin",
            "",
        ),
    ],
)
def test_console(message: str, accepted: bool, user: str, tty: str) -> None:
    login = one(CONSOLE, message)
    assert (login.accepted, login.user, login.tty) == (accepted, user, tty)


@given(HOSTILE)
def test_the_name_that_login_was_given_is_no_success(name: str) -> None:
    for message in (
        f"FAILED LOGIN (1) on '/dev/tty1' FOR '{name}', Authentication failure",
        f"FAILED LOGIN 1 FROM tty1 FOR {name}, Authentication failure",
        f"invalid password for '{name}' on 'tty1'",
    ):
        login = one(CONSOLE, message)
        assert (login.accepted, login.user, login.tty) == (False, name, "tty1")
