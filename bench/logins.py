"""
What watching logins costs on a booted device, beside fail2ban and `journalctl -f | grep`. Needs root.

    python -m bench.logins [--messages 10000] [--rounds 50] [--idle 60] [--journal 20000]

A program named sshd, run by root, writes what sshd writes: through /dev/log, so that journald vouches for it.
All of them see the same messages, one after the other: their CPU time with their children, and their memory
(PSS: what they share is divided) after it. Latency is from a message to the alert in the outbox, to the line
in the log of fail2ban, to the line from grep. The journal holds --journal other entries, and another one is
written each second. fail2ban is installed from the device's Debian.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.support import Cost, family_cost
from tests.system.device import Device
from tests.system.product import install_product, write

WRITER = """
import sys, syslog, time
syslog.openlog('sshd', syslog.LOG_PID, syslog.LOG_AUTH)
first, count, text = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print(time.monotonic(), flush=True)
for n in range(first, first + count):
    syslog.syslog(text.format(n >> 16 & 255, n >> 8 & 255, n & 255))
    if n % 200 == 199:
        time.sleep(0.05)  # as fast as journald takes them
time.sleep(0.2)
"""
REFUSED = "Failed password for root from 10.0.0.5 port 1{2} ssh2"
# A refusal too: fail2ban looks at nothing else.
ANEW = "Failed password for root from 10.1.{1}.{2} port 22 ssh2"
JAIL = "[DEFAULT]\nbackend = systemd\nbanaction = noop\n[sshd]\nenabled = true\nmaxretry = 1000000\n"
NOOP = "[Definition]\nactionban =\nactionunban =\n"
CHECK = 'LOGIN_MAX_ALERTS="100000"\nLOGIN_EXPIRATION=1d\n'
FOLLOW = "journalctl -q -f -o cat -n 0 -t sshd"
UNITS = {"grep": f"{FOLLOW} | grep --line-buffered -E '^(Accepted|Failed)' >/var/log/grep.log"}


def prepare(root: Path) -> None:
    install_product(root)
    write(root / "etc/mender-monitor/monitor.conf", "ALERT_OFFLINE_STORE_MAX_COUNT=100000\n")
    write(root / "etc/mender-monitor/monitor.d/available/login_root.sh", CHECK)
    write(root / "opt/writer.py", WRITER)
    write(root / "etc/fail2ban/jail.local", JAIL)
    write(root / "etc/fail2ban/action.d/noop.conf", NOOP)
    write(
        root / "etc/systemd/journald.conf.d/limit.conf", "[Journal]\nRateLimitBurst=0\nStorage=persistent\n"
    )
    for name, command in UNITS.items():
        write(root / f"etc/systemd/system/{name}.service", f'[Service]\nExecStart=/bin/sh -c "{command}"\n')
    install = "apt-get -qq install -y --no-install-recommends fail2ban python3-systemd"
    for command in ("apt-get -qq update", install):
        subprocess.run(["chroot", root, *command.split()], check=True, capture_output=True)
    subprocess.run(["chroot", root, "systemctl", "-q", "disable", "fail2ban"], check=True)


class Watcher:
    """A unit of the device under measurement. *seen* is how many messages it has told of."""

    def __init__(self, device: Device, unit: str, seen: Callable[[], int]) -> None:
        self._device = device
        self._unit = unit
        self.seen = seen

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._device.run(f"systemctl start {self._unit}")
        time.sleep(8)
        yield
        self._device.run(f"systemctl stop {self._unit}")

    def cost(self) -> Cost:
        pid = int(self._device.run(f"systemctl show -P MainPID {self._unit}"))
        return family_cost(pid, Path(f"/proc/{self._device._init}/root/proc"))

    def send(self, first: int, count: int, text: str) -> float:
        """Write *count* messages; the time of the first."""
        return float(self._device.run(f"/opt/sshd /opt/writer.py {first} {count} '{text}'"))

    def wait(self, count: int) -> float:
        """The time at which *count* messages are seen."""
        deadline = time.monotonic() + 60
        while self.seen() < count:
            if time.monotonic() > deadline:
                sys.exit(f"{self._unit} saw {self.seen()} of {count} messages")
            time.sleep(0.001)
        return time.monotonic()


def alerts(device: Device) -> int:
    """How many are in the outbox."""
    path = device.root / "var/lib/mender-monitor/outbox.db"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT coalesce(max(seq), 0) FROM alerts").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def lines(path: Path, word: bytes) -> int:
    return path.read_bytes().count(word) if path.exists() else 0


def measure(one: Watcher, options: argparse.Namespace) -> None:
    with one.running():
        before = one.cost()
        time.sleep(options.idle)
        idle = one.cost().since(before)
        found = []
        for number in range(options.rounds):
            count = one.seen()
            start = one.send(number, 1, ANEW)
            found.append((one.wait(count + 1) - start) * 1000)
        before = one.cost()
        one.send(0, options.messages, REFUSED)
        time.sleep(5)
        spent = one.cost().since(before)
    found.sort()
    minutes, thousands = options.idle / 60, options.messages / 1000
    print(f"  a minute: {idle.cpu / minutes:.3f} CPU s, {idle.wakeups / minutes:.0f} wake-ups")
    print(f"  1,000 messages: {spent.cpu / thousands * 1000:.0f} ms of CPU")
    print(f"  RSS {spent.rss / 2**20:.1f} MiB, PSS {spent.pss / 2**20:.1f} MiB with its children")
    print(f"  latency: median {found[len(found) // 2]:.0f}, worst {found[-1]:.0f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--idle", type=float, default=60)
    parser.add_argument("--journal", type=int, default=20_000)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    with Device(prepare) as device:
        device.run("cp /usr/bin/python3 /opt/sshd && systemctl stop mender-monitor")
        device.run(f"seq {options.journal} | systemd-cat", seconds=600)
        device.run("systemd-run --unit=noise sh -c 'while sleep 1; do logger noise; done'")
        log = device.root / "var/log"
        empty = Watcher(device, "mender-monitor", lambda: 0)
        with empty.running():
            spent = empty.cost()
        print(f"the daemon without checks: RSS {spent.rss / 2**20:.1f} MiB, PSS {spent.pss / 2**20:.1f} MiB")
        device.run("mender-monitorctl enable login root")
        for title, one in {
            "fail2ban": Watcher(device, "fail2ban", lambda: lines(log / "fail2ban.log", b"Found ")),
            "journalctl -f | grep": Watcher(device, "grep", lambda: lines(log / "grep.log", b"\n")),
            "login": Watcher(device, "mender-monitor", lambda: alerts(device)),
        }.items():
            print(title)
            measure(one, options)


if __name__ == "__main__":
    main()
