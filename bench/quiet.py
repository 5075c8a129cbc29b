"""
What a device that `monitorctl secure` has secured tells while nothing is wrong: it should be nothing. Needs
root, and gpg.

    python -m bench.quiet [--minutes 60 | --rounds 10]

A booted device with sshd, nginx, cron, rsyslog and the update client does what such devices do: apt-get
update from a signed archive, logrotate, cron, timers, logins of the allowed user with ssh, sudo, su and sftp.
One round of all of it each minute, or one after the other. It sees each program that is executed (fanotify).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.system.product import Site, site

USER = "admin"
SETTLE_S = 120.0
ROUND_S = 60.0
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
    "python3 /usr/lib/python3.11/calendar.py 2026 >/dev/null && py3versions --supported",
    "mender-monitorctl status >/dev/null",
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


class Office:
    """The device with its archive and its user."""

    def __init__(self, here: Site, folder: Path) -> None:
        self.site = here
        self.device = here.device
        self._folder = folder
        self._gpg = ["gpg", "--batch", "--quiet", "--homedir", str(folder / "gpg")]

    def furnish(self) -> None:
        """An archive that is signed, a user with a key, cron jobs, services."""
        (self._folder / "gpg").mkdir(mode=0o700)
        name = "bench@invalid"
        subprocess.run(
            [*self._gpg, "--passphrase", "", "--quick-gen-key", name, "ed25519", "sign"], check=True
        )
        key = subprocess.run([*self._gpg, "--export", name], check=True, stdout=subprocess.PIPE).stdout
        keyring = self.device.root / "usr/share/keyrings/bench.gpg"
        keyring.parent.mkdir(exist_ok=True)
        keyring.write_bytes(key)
        self.device.write(
            "/etc/apt/sources.list", "deb [signed-by=/usr/share/keyrings/bench.gpg] file:/srv/archive ./\n"
        )
        self.device.run("mkdir -p /srv/archive && cd /srv/archive && apt-ftparchive packages . >Packages")
        self.device.run(f"useradd --create-home --shell /bin/bash {USER}")
        self.device.write(f"/etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        self.device.run(
            f"install -d -m 700 -o {USER} /home/{USER}/.ssh && "
            "ssh-keygen -q -t ed25519 -N '' -f /root/key && "
            f"install -m 600 -o {USER} /root/key.pub /home/{USER}/.ssh/authorized_keys"
        )
        self.device.write(
            "/etc/cron.d/bench", "* * * * * root cd / && command -v run-parts | logger -t cron\n"
        )
        self.device.run("systemctl enable --now nginx rsyslog cron ssh 2>&1")
        self.publish()

    def publish(self) -> None:
        """The archive, signed anew."""
        release = self.device.run("cd /srv/archive && apt-ftparchive release .")
        signed = subprocess.run(
            [*self._gpg, "--clearsign"], input=release.encode(), check=True, stdout=subprocess.PIPE
        ).stdout
        self.device.write("/srv/archive/InRelease", signed.decode())

    def settle(self) -> None:
        """Wait until all checks know their state."""

        def known() -> bool:
            checks = [check for check in self.site.status()["checks"] if check["enabled"]]
            return all(check["state"] != "starting" for check in checks)

        self.device.wait_until(known, SETTLE_S)

    def round(self) -> None:
        """All activities once."""
        self.publish()
        for command in MAINTENANCE:
            self._do(command)
        ssh = "ssh -i /root/key -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR"
        for command in LOGINS:
            self._do(f'{ssh} {USER}@127.0.0.1 "{command}"')
        self._do(f"echo exit | {ssh} -tt {USER}@127.0.0.1 >/dev/null")
        self._do(f"echo 'ls /' | sftp -q -i /root/key -b - {USER}@127.0.0.1 >/dev/null")

    def _do(self, command: str) -> None:
        done = self.device.attempt(command)
        if done.returncode:
            sys.exit(f"{command} failed:\n{done.stdout}")

    def alerts(self) -> list[tuple[str, str]]:
        return [(alert["level"], alert["name"]) for alert in self.site.server.alerts()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    with tempfile.TemporaryDirectory() as name, site(Path(name), update_client=True, fanotify=True) as here:
        office = Office(here, Path(name))
        office.furnish()
        start = time.monotonic()
        print(here.device.run(f"{SECURE}"))
        print(f"secured in {time.monotonic() - start:.1f} s")
        office.settle()
        print(f"all checks knew their state after {time.monotonic() - start:.1f} s", flush=True)
        at_first = Counter(office.alerts())
        start, rounds = time.monotonic(), 0
        while time.monotonic() - start < options.minutes * 60 if options.minutes else rounds < options.rounds:
            office.round()
            rounds += 1
            if options.minutes:
                time.sleep(max(start + rounds * ROUND_S - time.monotonic(), 0))
        time.sleep(10)  # the last alert is on its way
        found = Counter(office.alerts()) - at_first
        print(f"{rounds} rounds in {(time.monotonic() - start) / 60:.1f} minutes")
        print(here.device.run("mender-monitorctl status"))
        print(f"alerts when it was secured: {sum(at_first.values())}")
        for title, alerts in (("at first", at_first), ("later", found)):
            for (level, alert), number in sorted(alerts.items()):
                print(f"  {title}: {number} {level} {alert}")
        print(f"false alarms: {sum(n for (level, _), n in found.items() if level != 'OK')}")


if __name__ == "__main__":
    main()
