"""
What a device that `monitorctl secure` has secured tells while nothing is wrong: it should be nothing. Needs
root, and gpg.

    python -m bench.quiet [--minutes 60 | --rounds 10] [--vm]

A booted device with sshd, nginx, cron and rsyslog does what such devices do: apt-get update from a signed
archive, logrotate, cron, timers, logins of the allowed user with ssh, sudo, su and sftp. One round of all of
it each minute, or one after the other; a scan by lynis in each tenth. The device is a container with the
update client, in which fanotify tells of each program; or a virtual machine, with the process connector too.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.fakes.receiver import SOURCE
from tests.system.product import MODULES, site
from tests.system.tracker import feed
from tests.system.vm import SHARED, Vm, unavailable

USER = "admin"
SETTLE_S = 120.0
ROUND_S = 60.0
# A scan has what nobody else wants of the processor.
ACTIVITY_S = 1800.0
SCAN_EACH = 10
# The bench itself, on its way into the device: by a program of this machine.
OURS = "elsewhere:/usr/bin/nsenter"
SECURE = f"mender-monitorctl secure --yes --allow-login {USER}"
# As root.
MAINTENANCE = (
    "apt-get --quiet update",
    "apt-get --quiet --simulate upgrade",
    "systemctl start logrotate.service && logrotate --force /etc/logrotate.conf",
    "run-parts --report /etc/cron.hourly; run-parts --report /etc/cron.daily",
    "systemctl start systemd-tmpfiles-clean.service dpkg-db-backup.service",
    "systemctl start apt-daily.service || true",
    "systemctl reload nginx ssh",
    "curl --silent --fail http://127.0.0.1/ >/dev/null",
    "journalctl --lines=5 >/dev/null; df >/dev/null; ps aux >/dev/null; ss -ltn >/dev/null",
    "python3 /usr/lib/python3*/calendar.py 2026 >/dev/null && py3versions --supported",
    "mender-monitorctl status >/dev/null",
    "mender-monitorctl scan debsecan",
)
# As the allowed user, in a login of his own each.
LOGINS = (
    "true",
    "bash -lc 'ls -l /etc >/dev/null'",
    "sudo -n systemctl status ssh >/dev/null",
    "sudo -n -i true",
    "sudo -n su - -c true",
    "cat /etc/os-release | awk -F= '/^ID/ {print $2}' | sort >/dev/null",
)


class Machine(Protocol):
    """A container or a virtual machine."""

    def attempt(self, script: str, *, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run *script* by /bin/sh as root."""

    def run(self, script: str) -> str:
        """What *script* prints. Raises AssertionError when it fails."""


class Office:
    """A device with its archive and its user."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.failed = 0
        self._gpg = ["gpg", "--batch", "--quiet", "--homedir", str(folder / "gpg")]
        (folder / "gpg").mkdir(mode=0o700)

    def furnish(self) -> None:
        """An archive that is signed, a user with a key, cron jobs, services."""
        name = "bench@invalid"
        subprocess.run(
            [*self._gpg, "--passphrase", "", "--quick-gen-key", name, "ed25519", "sign"], check=True
        )
        key = subprocess.run([*self._gpg, "--export", name], check=True, stdout=subprocess.PIPE).stdout
        self._write("/usr/share/keyrings/bench.gpg", key)
        source = b"deb [signed-by=/usr/share/keyrings/bench.gpg] file:/srv/security ./\n"
        self._write("/etc/apt/sources.list", source)
        self._write(f"/etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n".encode())
        self._write("/etc/default/debsecan", b"SOURCE=file:///srv/tracker/\n")
        self._write("/srv/tracker/bookworm", feed())
        self._write("/etc/cron.d/bench", b"* * * * * root cd / && command -v run-parts | logger -t cron\n")
        for script in (
            "mkdir -p /srv/security && cd /srv/security && apt-ftparchive packages . >Packages",
            f"useradd --create-home --shell /bin/bash {USER}",
            "ssh-keygen -q -t ed25519 -N '' -f /root/key",
            f"install -d -m 700 -o {USER} /home/{USER}/.ssh",
            f"install -m 600 -o {USER} /root/key.pub /home/{USER}/.ssh/authorized_keys",
            "systemctl enable --now nginx rsyslog cron ssh 2>&1",
        ):
            self.machine.run(script)
        self.publish()

    def publish(self) -> None:
        """The archive, signed anew."""
        release = self.machine.run("cd /srv/security && apt-ftparchive release .").encode()
        signing = [*self._gpg, "--clearsign"]
        signed = subprocess.run(signing, input=release, check=True, stdout=subprocess.PIPE).stdout
        self._write("/srv/security/InRelease", signed)

    def settle(self) -> None:
        """Wait until all checks know their state."""
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end:
            status = json.loads(self.machine.run("mender-monitorctl status --json"))
            enabled = [check for check in status["checks"] if check["enabled"]]
            # A scan waits for its time.
            if all(one["state"] != "starting" or one["subsystem"] == "vulnscan" for one in enabled):
                return
            time.sleep(1)
        sys.exit(f"not all checks knew their state after {SETTLE_S:.0f} s")

    def alerts(self) -> Counter[str]:
        """What was sent, or waits for that, by level and name."""
        rows = self.machine.run("mender-monitorctl queue list --sent").splitlines()[1:]
        return Counter(" ".join(row.split(None, 4)[4].split()) for row in rows)

    def _write(self, path: str, data: bytes) -> None:
        encoded = base64.b64encode(data).decode()
        self.machine.run(
            f"mkdir -p $(dirname {path}) && echo {encoded} | base64 -d >{path} && chmod go-w {path}"
        )

    def round(self, number: int) -> None:
        """All activities once."""
        self.publish()
        if number % SCAN_EACH == 0:
            self._do("mender-monitorctl scan lynis")
        for command in MAINTENANCE:
            self._do(command)
        ssh = "ssh -i /root/key -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR"
        for command in LOGINS:
            self._do(f'{ssh} {USER}@127.0.0.1 "{command}"')
        self._do(f"echo exit | {ssh} -tt {USER}@127.0.0.1 >/dev/null")
        self._do(f"echo 'ls /' | sftp -q -i /root/key -b - {USER}@127.0.0.1 >/dev/null")

    def _do(self, command: str) -> None:
        done = self.machine.attempt(command, seconds=ACTIVITY_S)
        if done.returncode:
            self.failed += 1
            print(f"{command} failed:\n{done.stdout}", flush=True)


@contextmanager
def container(folder: Path) -> Iterator[Machine]:
    """A device beside the update client."""
    with site(folder, update_client=True, fanotify=True) as here:
        here.device.connect()
        yield here.device


@contextmanager
def virtual_machine(folder: Path) -> Iterator[Machine]:
    """A device of its own kernel, with no server: alerts wait."""
    if reason := unavailable():
        sys.exit(reason)
    for name in (
        "mender_monitor_py",
        "scripts",
        "docs",
        "monitor-available",
        "monitor-enabled",
        "monitor-demo",
    ):
        shutil.copytree(SOURCE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE / "setup.cfg", folder)
    with Vm(folder, init="systemd") as vm:
        for script in (
            f"cp -r {SHARED}/mender_monitor_py {MODULES}",
            f"{SHARED}/scripts/programs /usr/bin /usr/bin/python3 {MODULES}",
            f"{SHARED}/scripts/install-data",
            "systemctl enable --now mender-monitor.service",
        ):
            vm.run(script)
        yield vm


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--vm", action="store_true", help="a virtual machine")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    kind = virtual_machine if options.vm else container
    with tempfile.TemporaryDirectory() as name, kind(Path(name)) as machine:
        measure(Office(machine, Path(name)), options.minutes * 60, options.rounds)


def measure(office: Office, seconds: float, rounds: int) -> None:
    """Secure the device and let it work, for *seconds* if that is not 0; print what it told."""
    office.furnish()
    start = time.monotonic()
    print(office.machine.run(SECURE))
    print(f"secured in {time.monotonic() - start:.1f} s")
    office.settle()
    print(f"all checks knew their state after {time.monotonic() - start:.1f} s", flush=True)
    at_first = office.alerts()
    start, done = time.monotonic(), 0
    while time.monotonic() - start < seconds if seconds else done < rounds:
        office.round(done)
        done += 1
        if seconds:
            time.sleep(max(start + done * ROUND_S - time.monotonic(), 0))
    time.sleep(10)  # the last alert is on its way
    later = office.alerts() - at_first
    minutes = (time.monotonic() - start) / 60
    print(f"{done} rounds in {minutes:.1f} minutes, {office.failed} activities failed")
    print(office.machine.run("mender-monitorctl status"))
    for title, alerts in (("when it was secured", at_first), ("later", later)):
        for alert, number in sorted(alerts.items()):
            print(f"{title}: {number} {alert}")
    false = [number for alert, number in later.items() if not alert.startswith("OK ") and OURS not in alert]
    print(f"false alarms: {sum(false)}")


if __name__ == "__main__":
    main()
