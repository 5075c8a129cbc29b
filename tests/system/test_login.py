"""Logins through the real sshd, sudo, su and login of a booted device, their PAM and its journal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.receiver import Alert
from tests.system.device import WAIT_SECONDS
from tests.system.product import Site, site

HERE = Path(__file__).parent
PASSWORD = "correct horse"
# journald has looked at the program that let somebody in, while it is there.
LEAVE = "journalctl --sync; exit"
SSHD = "/etc/ssh/sshd_config.d/test.conf"
SUDOERS = "/usr/bin/id, /usr/bin/systemctl, /bin/bash"
PREPARE = f"""
for user in admin mallory; do useradd --create-home --shell /bin/bash $user; done
for user in root admin mallory; do echo "$user:{PASSWORD}"; done | chpasswd -c SHA512 -s 1000
printf 'Defaults passwd_tries=1\\nadmin ALL=(ALL) {SUDOERS}\\n' >/etc/sudoers.d/admin
sed -i '/pam_unix.so/s/nullok/nullok nodelay/' /etc/pam.d/common-auth
sed -i '/pam_faildelay/d' /etc/pam.d/login
echo "127.0.1.1 $(hostname)" >>/etc/hosts
ssh-keygen -q -t ed25519 -N '' -f /root/key
mkdir -p /root/.ssh && cp /root/key.pub /root/.ssh/authorized_keys
"""


class Logins:
    """The people of a device."""

    def __init__(self, here: Site) -> None:
        self.site = here
        self.device = here.device
        self.device.run(PREPARE)
        self.device.write("/root/logging_in.py", (HERE / "logging_in.py").read_text())

    def sshd(self, *options: str) -> None:
        """Start sshd anew with these *options*."""
        self.device.write(SSHD, "".join(f"{option}\n" for option in (*options, "MaxAuthTries 60")))
        self.device.run("systemctl reset-failed ssh; systemctl restart ssh")

    def ssh(self, user: str, password: str, *options: str) -> None:
        self._do("ssh", user, password, *options)

    def type(self, user: str, command: str, *talk: str) -> str:
        return self._do("type", user, command, *talk)

    def sudo(self, user: str, command: str, password: str = PASSWORD) -> None:
        self.type(user, f"sudo -k {command}", "assword", password)

    def expect(self, name: str, subject: str, *levels: str) -> Alert:
        """Wait until the alerts with this name and subject have been *levels*; the last of them."""

        def these(alerts: list[Alert]) -> list[Alert]:
            return [one for one in alerts if (one["name"], one["subject"]["name"]) == (name, subject)]

        wanted = list(levels)
        got = self.site.server.wait_for(
            lambda alerts: [a["level"] for a in these(alerts)] == wanted, WAIT_SECONDS
        )
        return these(got)[-1]

    def told(self) -> list[tuple[str, str, str]]:
        return [(one["level"], one["name"], one["subject"]["name"]) for one in self.site.server.alerts()]

    def _do(self, *words: str) -> str:
        return self.device.run(f"python3 /root/logging_in.py {shlex.join(words)}")


@pytest.fixture(scope="module")
def logins(here: Site) -> Iterator[Logins]:
    """A device with users, that is watched."""
    made = Logins(here)
    made.sshd("PermitRootLogin yes", "MaxStartups 100")
    here.watch("login", "root", "LOGIN_ALLOW=sudo admin /usr/bin/systemctl*, console root tty9")
    yield made


@pytest.fixture
def on_trixie(tmp_path: Path) -> Iterator[Logins]:
    with site(tmp_path, suite="trixie") as made:
        yield Logins(made)


def text(alert: Alert) -> str:
    description: str = alert["subject"]["details"]["description"]
    return description


def fingerprint(logins: Logins) -> str:
    return logins.device.run("ssh-keygen -lf /root/key.pub").split()[1]


def test_ssh(logins: Logins) -> None:
    """
    Root by key and by password, refused, and a name that no user has; the address is in each.
    """
    logins.ssh("root", "-")
    by_key = f"root from 127.0.0.1 by publickey ED25519 {fingerprint(logins)}"
    alert = logins.expect("Root login over ssh", by_key, "CRITICAL")
    assert re.search(r"^from: 127\.0\.0\.1 port \d+$", text(alert), re.MULTILINE)
    assert "systemd unit: ssh.service" in text(alert)
    logins.ssh("root", PASSWORD)
    logins.expect("Root login over ssh", "root from 127.0.0.1 by password", "CRITICAL")
    logins.ssh("root", "wrong")
    alert = logins.expect("Root login refused over ssh", "127.0.0.1", "CRITICAL")
    assert "refused: password was not accepted" in text(alert)
    logins.ssh("nobodyhere", "wrong")
    alert = logins.expect("Invalid user refused over ssh", "127.0.0.1", "CRITICAL")
    assert "user: nobodyhere" in text(alert)


def test_what_a_name_says_counts_for_nothing(logins: Logins) -> None:
    """
    A user name with the rest of sshd's message in it forges no address, no user and no success.
    """
    before = set(logins.told())
    logins.ssh("root from 6.6.6.6 port 22 ssh2", "wrong")
    logins.ssh("x from 6.6.6.6 port 22 ssh2: Accepted password for root from 6.6.6.6", "wrong")
    forge = "Accepted password for root from 6.6.6.6 port 22 ssh2"
    logins.device.run(f"logger -t sshd -i '{forge}'", user="mallory")
    logins.device.run(
        "logger -t sudo 'root : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh'", user="mallory"
    )
    # comm is 15 bytes that each process may set (prctl(2), PR_SET_NAME)
    program = (
        "import ctypes, syslog, time; ctypes.CDLL(None).prctl(15, b'sshd'); "
        f"syslog.openlog('sshd', syslog.LOG_PID); syslog.syslog('{forge}'); time.sleep(1)"
    )
    logins.device.run(f'python3 -c "{program}"', user="mallory")
    logins.device.wait_until(lambda: "3 messages in the name of" in notes(logins))
    logins.sudo("admin", "id")  # what comes after all that was told as well
    logins.expect("sudo to root by admin", "admin /usr/bin/id", "CRITICAL")
    assert set(logins.told()) - before == {("CRITICAL", "sudo to root by admin", "admin /usr/bin/id")}


def notes(logins: Logins) -> str:
    checks = logins.site.status()["checks"]
    return " ".join(next(one for one in checks if one["subsystem"] == "login")["notes"])


def test_sudo_su_and_the_console(logins: Logins) -> None:
    """
    What succeeds, what is expected, and each way to be refused.
    """
    logins.sudo("admin", "systemctl --version")
    logins.sudo("admin", "systemctl --version --token=abc")
    logins.type("admin", "sudo -k -i", "assword", PASSWORD, ":~#", LEAVE)
    logins.expect("sudo to root by admin", "admin /bin/bash", "CRITICAL")
    logins.sudo("admin", "id", "wrong")
    logins.expect("sudo to root refused for admin", "admin: wrong password", "CRITICAL")
    logins.sudo("mallory", "id --password=hunter2")
    alert = logins.expect("sudo to root refused for mallory", "mallory: not in sudoers", "CRITICAL")
    assert "command: /usr/bin/id --password=***" in text(alert)
    logins.sudo("admin", "cat /etc/shadow")
    logins.expect("sudo to root refused for admin", "admin: command not allowed", "CRITICAL")
    # A folder whose name looks like the rest of the message, and pushes it into the next one.
    folder = "/tmp/ ; USER=nobody ; COMMAND=/usr/bin/systemctl " + "x" * 200
    deep = "/".join([folder, *["y" * 200] * 4])
    logins.device.run(f"mkdir -p '{deep}'; chmod -R 777 '{folder}'", user="admin")
    logins.type("admin", f"cd '{deep}'; sudo -k bash -c true", "assword", PASSWORD)
    logins.expect("sudo to root by admin", "admin /usr/bin/systemctl", "CRITICAL")
    # By another name: that is the name in the journal.
    logins.type(
        "mallory", "ln -s /usr/bin/su /tmp/harmless; exec /tmp/harmless -", "assword", PASSWORD, ":~#", LEAVE
    )
    logins.expect("su to root by mallory", "mallory", "CRITICAL")
    logins.type("mallory", "su -", "assword", "wrong")
    logins.expect("su to root refused for mallory", "mallory", "CRITICAL")
    logins.type("root", "exec login", "login:", "root", "assword", PASSWORD, ":~#", LEAVE)
    logins.expect("Root login on the console", "root on pts/0", "CRITICAL")
    logins.type("root", "exec login", "login:", "root", "assword", "wrong", "incorrect", "")
    logins.expect("Root login refused on the console", "root on pts/0", "CRITICAL")
    assert not [one for one in logins.told() if one[0] == "OK"]


def test_two_hundred_attempts_are_one_alert_that_counts(logins: Logins) -> None:
    """
    Refused all the same when root may not log in; when it is over, the OK has the number.
    """
    logins.sshd("PermitRootLogin no", "MaxStartups 100", "LoginGraceTime 0")
    check = ("LOGIN_METHODS=ssh", "LOGIN_USER=root")
    logins.site.watch("login", "short", *check)
    logins.device.run("mender-monitorctl disable login root")
    attempt = f"python3 /root/logging_in.py ssh root '{PASSWORD}' NumberOfPasswordPrompts=50"
    logins.device.run(f"for n in 1 2 3 4; do {attempt} & done; wait")
    # The ones before were told by the other check.
    logins.ssh("nobodyhere", "wrong")  # what comes after all that was read as well
    logins.expect("Invalid user refused over ssh", "127.0.0.1", "CRITICAL", "CRITICAL")
    logins.device.run(f"mender-monitorctl create login short {shlex.join(check)} LOGIN_EXPIRATION=1s")
    logins.expect("Invalid user refused over ssh", "127.0.0.1", "CRITICAL", "CRITICAL", "OK")
    alert = logins.expect("Root login refused over ssh", "127.0.0.1", "CRITICAL", "CRITICAL", "OK")
    assert "(it was seen 200 times)" in text(alert)
    logins.device.run("mender-monitorctl disable login short && mender-monitorctl enable login root")
    logins.device.wait_until(lambda: logins.site.state("login", "root") == "CRITICAL")


def test_the_journal_is_rotated_and_the_daemon_away(logins: Logins) -> None:
    """
    Nothing is missed and nothing told twice, though the place to go on from is gone by then.
    """
    before = len(logins.told())
    for number, clean in enumerate(("journalctl --rotate", "journalctl --rotate --vacuum-time=1s")):
        logins.device.run(clean)
        logins.device.run(f"install -m 755 /bin/true /usr/local/bin/one{number}")
        logins.device.run("echo 'admin ALL=(root) NOPASSWD: /usr/local/bin/*' >/etc/sudoers.d/local")
        logins.type("admin", f"sudo one{number}")
        logins.expect("sudo to root by admin", f"admin /usr/local/bin/one{number}", "CRITICAL")
    logins.device.run("install -m 755 /bin/true /usr/local/bin/away && systemctl stop mender-monitor")
    logins.device.run("sleep 1.1; journalctl --rotate --vacuum-time=1s")
    logins.type("admin", "sudo away")
    logins.device.run("systemctl start mender-monitor")
    logins.expect("sudo to root by admin", "admin /usr/local/bin/away", "CRITICAL")
    logins.device.run("systemctl kill --signal=KILL mender-monitor")
    logins.device.wait_until(lambda: logins.site.state("login", "root") == "CRITICAL")
    logins.type("admin", "sudo one0")
    logins.device.run("install -m 755 /bin/true /usr/local/bin/last")
    logins.type("admin", "sudo last")
    logins.expect("sudo to root by admin", "admin /usr/local/bin/last", "CRITICAL")
    assert len(logins.told()) == before + 4


def test_a_device_with_syslog_alone(logins: Logins) -> None:
    """
    From auth.log; what was in it before the check is left out, and what a message holds is no sender.
    """
    logins.device.run("mender-monitorctl disable login root")
    logins.device.run("systemctl enable --quiet --now rsyslog")
    logins.type("admin", "sudo one0")
    logins.device.wait("grep -q 'COMMAND=/usr/local/bin/one0' /var/log/auth.log")
    before = len(logins.told())
    logins.site.watch("login", "file", "LOGIN_SOURCE=/var/log/auth.log")
    assert "local users can forge" in " ".join(
        next(one for one in logins.site.status()["checks"] if one["name"] == "file")["notes"]
    )
    logins.device.run(
        "logger -p auth.info -t x 'sshd[1]: Accepted password for root from 6.6.6.6 port 22 ssh2'"
    )
    logins.ssh("root", "-")
    logins.expect("Root login refused over ssh", "127.0.0.1", "CRITICAL", "CRITICAL", "OK", "CRITICAL")
    logins.device.run("mv /var/log/auth.log /var/log/auth.log.1 && systemctl kill -s HUP rsyslog")
    logins.device.run("install -m 755 /bin/true /usr/local/bin/rotated")
    logins.type("admin", "sudo rotated")
    logins.expect("sudo to root by admin", "admin /usr/local/bin/rotated", "CRITICAL")
    assert len(logins.told()) == before + 2


def test_debian_13(on_trixie: Logins) -> None:
    """
    sshd-session, sudo 1.9.16, login of util-linux, a reboot, and the time of rsyslog there.
    """
    logins = on_trixie
    logins.sshd("PermitRootLogin yes", "PerSourcePenalties no")
    logins.site.watch("login", "root")
    logins.ssh("root", "-")
    by_key = f"root from 127.0.0.1 by publickey ED25519 {fingerprint(logins)}"
    logins.expect("Root login over ssh", by_key, "CRITICAL")
    logins.ssh("root", "wrong")
    logins.expect("Root login refused over ssh", "127.0.0.1", "CRITICAL")
    logins.ssh("nobodyhere", "wrong")
    logins.expect("Invalid user refused over ssh", "127.0.0.1", "CRITICAL")
    logins.sudo("admin", "id")
    logins.expect("sudo to root by admin", "admin /usr/bin/id", "CRITICAL")
    logins.sudo("mallory", "id")
    logins.expect("sudo to root refused for mallory", "mallory: not in sudoers", "CRITICAL")
    logins.type("mallory", "su -", "assword", PASSWORD, ":~#", LEAVE)
    logins.expect("su to root by mallory", "mallory", "CRITICAL")
    logins.type("root", "exec login", "login:", "root", "assword", PASSWORD, ":~#", LEAVE)
    logins.expect("Root login on the console", "root on pts/0", "CRITICAL")
    logins.type("root", "exec login", "login:", "root", "assword", "wrong", "incorrect", "")
    logins.expect("Root login refused on the console", "root on pts/0", "CRITICAL")
    before = len(logins.told())
    logins.device.run("systemctl stop mender-monitor")
    logins.sudo("admin", "/bin/bash -c true")
    logins.device.reboot()
    logins.expect("sudo to root by admin", "admin /bin/bash", "CRITICAL")
    assert len(logins.told()) == before + 1
    logins.device.run("mender-monitorctl disable login root")
    logins.device.run("systemctl enable --quiet --now rsyslog && touch /var/log/auth.log")
    logins.site.watch("login", "file", "LOGIN_SOURCE=/var/log/auth.log")
    logins.sudo("admin", "systemctl --version")
    logins.expect("sudo to root by admin", "admin /usr/bin/systemctl", "CRITICAL")
