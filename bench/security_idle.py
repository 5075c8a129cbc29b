"""
What the daemon costs with the security checks, each and all of them, while the machine is idle. Needs root.
The list of `integrity` has the programs of /usr/bin and /usr/sbin. `login` reads the journal, and then
journalctl counts as well; on a machine without one it reads an empty file.

    python -m bench.security_idle [--seconds 60] [--python /usr/bin/python3]

Beside it monit(1), where it is installed: the same files and one process, each minute.
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

from bench import monit
from bench.support import Cost, Device, cost, family_cost
from mender_monitor_py.baseline import Glob, render
from mender_monitor_py.host import journal
from mender_monitor_py.host.filestates import executable, expand
from mender_monitor_py.host.scanner import Scanner

CHECKS = {
    ("ports", "external"): {"PORTS_ALLOW": "tcp 0-65535, udp 0-65535"},
    ("process", "all"): {"PROCESS_ALLOW": "/**, /** *, elsewhere:/**, elsewhere:/** *"},
    ("pid", "app"): {"PID_EXE": "/bin/sleep", "PID_GRACE": "600"},
    ("setuid", "system"): {"SETUID_ALLOW": "/**", "SETUID_XDEV": "no"},
    ("integrity", "core"): {"INTEGRITY_RATE": "1G"},
    ("vulnscan", "lines"): {
        "VULNSCAN_FORMAT": "lines",
        "VULNSCAN_COMMAND": "true",
        "VULNSCAN_PATTERN": "x",
        "VULNSCAN_SPLAY": "0",
    },
    ("login", "root"): {"LOGIN_SOURCE": "journal"},
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
        before = family_cost(device.pid)
        time.sleep(options.seconds)
        return family_cost(device.pid).since(before)


def peer(folder: Path, seconds: float) -> Cost:
    """What monit costs with the files of the integrity check and one process."""
    files = [one.path for one in asyncio.run(Scanner().hash_all(expand(map(Glob, LEARNED)))) if not one.error]
    checks = [monit.file_check(number, Path(path)) for number, path in enumerate(files)]
    checks.append(monit.process_check(Path("/bin/sleep"), folder / "changed"))
    with monit.running(folder, 60, checks) as pid:
        time.sleep(30)  # the first cycle
        before = cost(pid)
        time.sleep(seconds)
        return cost(pid).since(before)


def show(title: str, spent: Cost, seconds: float) -> None:
    minutes = seconds / 60
    cpu, wakeups = spent.cpu / minutes, spent.wakeups / minutes
    print(f"{title:<12} a minute: {cpu:.3f} CPU s, {wakeups:.0f} wake-ups")
    print(f"{'':<12} RSS {spent.rss / 2**20:.1f} MiB, PSS {spent.pss / 2**20:.1f} MiB", flush=True)


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
        if not journal.is_kept():
            (Path(name) / "auth.log").touch()
            CHECKS["login", "root"]["LOGIN_SOURCE"] = f"{name}/auth.log"
        sets = {"nothing": {}, "all of them": CHECKS} | {f"{key[0]}": {key: CHECKS[key]} for key in CHECKS}
        for title, checks in sets.items():
            show(title, measure(Path(name) / title.replace(" ", "_"), checks, options), options.seconds)
        if monit.is_installed():
            show("monit", peer(Path(name) / "monit", options.seconds), options.seconds)
        app.kill()


if __name__ == "__main__":
    main()
