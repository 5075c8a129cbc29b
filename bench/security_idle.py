"""
What the daemon costs with the five security checks of processes and files, while the machine is idle. Needs
root. The list of `integrity` has the programs of /usr/bin and /usr/sbin.

    python -m bench.security_idle [--seconds 60] [--python /usr/bin/python3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.support import Cost, Device, cost
from mender_monitor_py.baseline import Glob, render
from mender_monitor_py.host.filestates import executable, expand
from mender_monitor_py.host.scanner import Scanner

CHECKS = {
    ("ports", "external"): {"PORTS_ALLOW": "tcp 0-65535, udp 0-65535"},
    ("process", "all"): {"PROCESS_ALLOW": "/**, /** *, elsewhere:/**, elsewhere:/** *"},
    ("pid", "app"): {"PID_EXE": "/bin/sleep", "PID_GRACE": "600"},
    ("setuid", "system"): {"SETUID_ALLOW": "/**", "SETUID_XDEV": "no"},
    ("integrity", "core"): {"INTEGRITY_RATE": "1G"},
}
LEARNED = ("/usr/bin/*", "/usr/sbin/*")


def learn(folder: Path) -> None:
    """The list of the integrity check."""
    found = asyncio.run(Scanner().hash_all(expand(map(Glob, LEARNED))))
    rows = [executable(one).row for one in found if not one.error]
    path = folder / "etc/mender-monitor/baseline.d/integrity_core.list"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(render("integrity core", 1, rows))


def measure(folder: Path, checks: dict[tuple[str, str], dict[str, str]], options: argparse.Namespace) -> Cost:
    with Device(folder, options.python) as device:
        learn(folder)
        for (subsystem, name), values in checks.items():
            device.check(subsystem, name, **values)
        device.start(len(checks))
        time.sleep(10)
        before = cost(device.pid)
        time.sleep(options.seconds)
        return cost(device.pid).since(before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    with tempfile.TemporaryDirectory() as name, subprocess.Popen(["/bin/sleep", "3600"]) as app:
        sets = {"nothing": {}, "all of them": CHECKS} | {f"{key[0]}": {key: CHECKS[key]} for key in CHECKS}
        for title, checks in sets.items():
            spent = measure(Path(name) / title.replace(" ", "_"), checks, options)
            minutes = options.seconds / 60
            cpu, wakeups = spent.cpu / minutes, spent.wakeups / minutes
            print(f"{title:<12} a minute: {cpu:.3f} CPU s, {wakeups:.0f} wake-ups")
            print(f"{'':<12} RSS {spent.rss / 2**20:.1f} MiB, PSS {spent.pss / 2**20:.1f} MiB", flush=True)
        app.kill()


if __name__ == "__main__":
    main()
