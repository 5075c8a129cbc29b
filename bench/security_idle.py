"""
What the daemon costs with the security checks, each and all of them, while the machine is idle. Needs root.
The list of `integrity` has the programs of /usr/bin and /usr/sbin. `login` reads the journal, and then
journalctl counts as well; on a machine without one it reads an empty file.

    python -m bench.security_idle [--seconds 60] [--python /usr/bin/python3]

Beside it monit(1), where it is installed: the same files and one process, each minute.

    python -m bench.security_idle --machine

In place of that all five in their packaged unit on the virtual machine of the tests, where nobody else
does anything; with how many times slower than this one it is.
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
    ("traffic", "uplink"): {"TRAFFIC_INTERFACE": "*", "TRAFFIC_LIMIT": "1G"},
}
CYCLE_S = 60
LOOP = """
import time
begun = time.process_time()
sum(n * n for n in range(1000000))
print(time.process_time() - begun)
"""
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


def peer(folder: Path) -> Cost:
    """What monit costs with the files of the integrity check and one process."""
    files = [one.path for one in asyncio.run(Scanner().hash_all(expand(map(Glob, LEARNED)))) if not one.error]
    checks = [monit.file_check(number, Path(path)) for number, path in enumerate(files)]
    checks.append(monit.process_check(Path("/bin/sleep"), folder / "changed"))
    with monit.running(folder, CYCLE_S, checks) as pid:
        time.sleep(CYCLE_S / 2)  # the first one is over
        before = cost(pid)
        time.sleep(CYCLE_S)
        return cost(pid).since(before)


def in_machine(folder: Path, seconds: float) -> None:
    from tests.system import test_security_machine as machine
    from tests.system.vm import Vm
    from tests.system.vmproduct import installed

    (folder / "share").mkdir()
    with (
        Vm(folder / "share", init="systemd") as vm,
        installed(vm, folder / "product", lambda root: root.sh(machine.DEFINE)),
    ):
        vm.run(machine.START)
        watched = machine.Watched(vm)
        watched.until(lambda: all(watched.checks()[name]["state"] == "OK" for name in machine.CHECKS), 180)
        time.sleep(20)
        pid = vm.run("systemctl show -P MainPID mender-monitor").strip()

        def cpu() -> float:
            fields = vm.run(f"cat /proc/{pid}/stat").split()
            return (int(fields[13]) + int(fields[14])) / 100  # USER_HZ, see proc(5)

        before = cpu()
        time.sleep(seconds)
        spent = (cpu() - before) * 60 / seconds
        slower = float(vm.run(f"python3 -c '{LOOP}'")) / float(
            subprocess.run(["python3", "-c", LOOP], capture_output=True, text=True, check=True).stdout
        )
        memory = vm.run(f"grep VmRSS /proc/{pid}/status").split()[1]
        print(
            f"all of them  a minute: {spent:.2f} CPU s, {slower:.0f} times slower: {spent / slower:.3f} here"
        )
        print(f"{'':<12} RSS {int(memory) / 1024:.1f} MiB")


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
    parser.add_argument("--machine", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    if options.machine:
        with tempfile.TemporaryDirectory() as name:
            in_machine(Path(name), options.seconds)
        return
    with tempfile.TemporaryDirectory() as name, subprocess.Popen(["/bin/sleep", "3600"]) as app:
        if not journal.is_kept():
            (Path(name) / "auth.log").touch()
            CHECKS["login", "root"]["LOGIN_SOURCE"] = f"{name}/auth.log"
        sets = {"nothing": {}, "all of them": CHECKS} | {f"{key[0]}": {key: CHECKS[key]} for key in CHECKS}
        for title, checks in sets.items():
            show(title, measure(Path(name) / title.replace(" ", "_"), checks, options), options.seconds)
        if monit.is_installed():
            show("monit", peer(Path(name) / "monit"), CYCLE_S)
        app.kill()


if __name__ == "__main__":
    main()
