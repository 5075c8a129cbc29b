"""
What the daemon costs with the security checks while the machine is idle: none of them, the five of ports,
processes and files, all of them, and each. Needs root. A receiver takes what there is to send, so that the
sender process is gone as it is on a device. The watcher is told apart from what it started.

    python -m bench.security_idle [--seconds 60] [--only "the five"] [--python /usr/bin/python3]

The list of `integrity` has the programs of /usr/bin and /usr/sbin. `login` reads the journal by journalctl;
on a machine without one it reads an empty file. Without a radio `wifi` looks for one. Beside it monit(1),
where it is installed: the same files and one process, each minute. What others do on the machine costs the
watcher, too; `unshare --mount` before the command keeps their mounts away.

    python -m bench.security_idle --machine

In place of that the five, then all, in their packaged unit on the virtual machine of the tests, where nobody
else does anything; with how many times slower than this one it is. What the package enables by itself is
there in both: deployment, and four services.
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
from bench.delivery import account, receiver
from bench.family import Family
from bench.support import Cost, Device, cost
from mender_monitor_py.baseline import Glob, render
from mender_monitor_py.host import journal
from mender_monitor_py.host.filestates import executable, expand
from mender_monitor_py.host.scanner import Scanner
from mender_monitor_py.paths import Paths

FIVE = {
    ("ports", "external"): {"PORTS_ALLOW": "tcp 0-65535, udp 0-65535"},
    ("process", "all"): {"PROCESS_ALLOW": "/**, /** *, elsewhere:/**, elsewhere:/** *"},
    ("pid", "app"): {"PID_EXE": "/bin/sleep", "PID_GRACE": "600"},
    ("setuid", "system"): {"SETUID_ALLOW": "/**", "SETUID_XDEV": "no"},
    ("integrity", "core"): {"INTEGRITY_RATE": "1G"},
}
CHECKS = FIVE | {
    ("vulnscan", "lines"): {
        "VULNSCAN_FORMAT": "lines",
        "VULNSCAN_COMMAND": "true",
        "VULNSCAN_PATTERN": "x",
        "VULNSCAN_SPLAY": "0",
    },
    ("login", "root"): {"LOGIN_SOURCE": "journal"},
    ("traffic", "uplink"): {"TRAFFIC_INTERFACE": "*", "TRAFFIC_LIMIT": "1G"},
    ("deployment", "mender"): {},
    ("wifi", "uplink"): {},
}
SETTLED_S = 30.0  # the first looks are over, what they had to say is sent, and the sender has ended
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


def measure(
    folder: Path, checks: dict[tuple[str, str], dict[str, str]], url: str, options: argparse.Namespace
) -> Family:
    with Device(folder, options.python) as device:
        learn(folder)
        key, identity = account(Paths(folder), url)
        with (device.etc / "monitor.conf").open("a") as file:
            file.write(f"DEVICE_KEY={key}\nDEVICE_IDENTITY={identity}\n")
        for (subsystem, name), values in checks.items():
            device.check(subsystem, name, **values)
        known = [key for key in checks if key[0] != "wifi" or has_radio()]
        device.start(len(known), 180)
        time.sleep(SETTLED_S)
        before, programs = Family.of(device.pid), forks()
        time.sleep(options.seconds)
        spent = Family.of(device.pid).since(before)
        print(f"{forks() - programs} processes were started on the machine meanwhile")
        return spent


def forks() -> int:
    """How many processes this machine has started, threads too; proc(5)."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("processes "))


def has_radio() -> bool:
    return Path("/sys/class/net/wlan0").exists()


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
    from tests.system.vm import SHARED, Vm
    from tests.system.vmproduct import installed
    from tests.system.wifi import SOURCES, put_sources

    (folder / "share").mkdir()
    with (
        Vm(folder / "share", init="systemd") as vm,
        installed(vm, folder / "product", lambda root: root.sh(machine.DEFINE)),
    ):
        put_sources(vm)
        vm.run(machine.START)
        watched = machine.Place(vm)

        def family() -> Family:
            pid = vm.run("systemctl show -P MainPID mender-monitor").strip()
            return Family.from_json(vm.run(f"cd {SOURCES} && python3 -B -m bench.family {pid}"))

        def idle(title: str) -> None:
            watched.until(lambda: all(one["state"] == "OK" for one in watched.checks().values()), 180)
            time.sleep(SETTLED_S)
            before = family()
            time.sleep(seconds)
            spent = family().since(before)
            show(title, spent, seconds)
            slower = float(vm.run(f"python3 -c '{LOOP}'")) / float(
                subprocess.run(["python3", "-c", LOOP], capture_output=True, text=True, check=True).stdout
            )
            here = cpu(spent) * 60 / seconds / slower
            print(f"{'':<12} the machine is {slower:.0f} times slower: {here:.3f} CPU s here", flush=True)

        print(f"by {vm.accelerator}, Linux {vm.run('uname -r').strip()}")
        idle("the five")
        vm.run("modprobe mac80211_hwsim radios=1 && ip link set wlan0 up")
        there = watched.checks()
        for (subsystem, name), values in CHECKS.items():
            if f"{subsystem} {name}" in there:
                continue
            file = vm.share / f"{subsystem}_{name}.sh"
            file.write_text("".join(f'{key}="{value}"\n' for key, value in values.items()))
            vm.run(f"cp {SHARED}/{file.name} /etc/mender-monitor/monitor.d/available/")
            vm.run(f"mender-monitorctl enable {subsystem} {name}")
        names = {" ".join(key) for key in CHECKS}
        watched.until(lambda: names <= watched.checks().keys(), 120)
        idle("all of them")


def cpu(spent: Family) -> float:
    """CPU seconds of all."""
    return spent.itself.cpu + sum(one.cpu for one in spent.started.values()) + spent.ended


def show(title: str, spent: Family, seconds: float) -> None:
    minutes = seconds / 60
    print(f"{title:<12} a minute: {cpu(spent) / minutes:.3f} CPU s in all")
    for name, one in {"watcher": spent.itself, **spent.started}.items():
        print(f"{'':<12} {name}: {told(one, minutes)}")
    if spent.ended:
        print(f"{'':<12} what it started and is over: {spent.ended / minutes:.2f} CPU s")
    sys.stdout.flush()


def told(spent: Cost, minutes: float) -> str:
    memory = f"RSS {spent.rss / 2**20:.1f} MiB, PSS {spent.pss / 2**20:.1f} MiB"
    return f"{spent.cpu / minutes:.3f} CPU s, {spent.wakeups / minutes:.0f} wake-ups a minute, {memory}"


def compare(folder: Path, url: str, options: argparse.Namespace) -> None:
    if not journal.is_kept():
        (folder / "auth.log").touch()
        CHECKS["login", "root"]["LOGIN_SOURCE"] = f"{folder}/auth.log"
    sets: dict[str, dict[tuple[str, str], dict[str, str]]]
    sets = {"nothing": {}, "the five": FIVE, "all of them": CHECKS}
    sets |= {key[0]: {key: values} for key, values in CHECKS.items()}
    for title, checks in sets.items():
        if options.only in ("", title):
            root = folder / title.replace(" ", "_")
            show(title, measure(root, checks, url, options), options.seconds)
    if options.only in ("", "monit") and monit.is_installed():
        print(f"monit        {told(peer(folder / 'monit'), CYCLE_S / 60)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", default="", help="one of them, as it is printed")
    parser.add_argument("--machine", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    if options.machine:
        with tempfile.TemporaryDirectory() as name:
            in_machine(Path(name), options.seconds)
        return
    with (
        tempfile.TemporaryDirectory() as name,
        receiver("--open") as url,
        subprocess.Popen(["/bin/sleep", "3600"]) as app,
    ):
        try:
            compare(Path(name), url, options)
        finally:
            app.kill()


if __name__ == "__main__":
    main()
