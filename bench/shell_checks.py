"""
What 20 shell checks cost: forks and CPU seconds a minute, beside /bin/bash that does it in a plain loop.

    python bench/shell_checks.py [--seconds 30]

Three ways to run the same two subsystems, each check every 2 s, with the same library:

    ours     the runner and its one bash (runner.sh), and the watcher's share of it
    fork     the plain loop, a subshell for each check
    exec     the plain loop, a bash for each check: the original's way

Each way has a PID namespace of its own, where the number of the next process tells how many there were
before. Each is measured for a short and for a long time: the difference leaves out what starting costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from mender_monitor_py.host.runner import Runner  # noqa: E402
from mender_monitor_py.host.shellchecks import Job, ShellChecks  # noqa: E402

CHECKS = 20
INTERVAL = 2.0
WARM_UP = 4.0
LIBRARY = """
. common/common.sh
. lib/monitor-lib.sh
. lib/alert-lib.sh
. lib/subsystem-storage-lib.sh
"""
SUBSYSTEMS = {
    "builtin": LIBRARY
    + """
read -r load _ </proc/loadavg
if [[ ${load%.*} -gt 100 ]]; then log_warn "busy"; fi
log_debug "load $load"
""",
    "diskusage": (PROJECT / "tests/fixtures/shell/diskspace.sh").read_text(),
}
LOOPS = {
    "fork": '( env=$check; SUBSYSTEM_NAME=sub; . "$check"; . "$script" )',
    "exec": 'env=$check SUBSYSTEM_NAME=sub /bin/bash -c \'. "$env"; . "$0"\' "$script"',
}


class Sink:
    """Takes what the runs tell."""

    def printed(self, output: bytes) -> None:
        sys.stderr.buffer.write(output)

    async def alerted(self, call: bytes) -> bool:
        raise AssertionError(f"nothing is wrong on this machine: {call!r}")

    def ran(self) -> None:
        """As it should."""

    def overdue(self) -> None:
        raise AssertionError("a run took too long")


def main() -> None:
    """Measure all, or (in its own namespace) one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--inner", nargs=2, metavar=("WAY", "ROOT"))
    arguments = parser.parse_args()
    if arguments.inner:
        way, root = arguments.inner
        print(json.dumps(measure(way, Path(root), arguments.seconds)))
        return
    print(
        f"{'subsystem':10} {'way':5} {'forks/min':>10} {'CPU s/min':>10} {'forks':>7} {'CPU':>7}   (ours = 1)"
    )
    for subsystem in SUBSYSTEMS:
        found = {way: in_namespace(subsystem, way, arguments.seconds) for way in ("ours", *LOOPS)}
        for way, (forks, cpu) in found.items():
            ratios = f"{forks / found['ours'][0]:7.2f} {cpu / found['ours'][1]:7.2f}"
            print(f"{subsystem:10} {way:5} {forks:10.0f} {cpu:10.2f} {ratios}")


def in_namespace(subsystem: str, way: str, seconds: float) -> tuple[float, float]:
    """Forks and CPU seconds a minute."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(PROJECT / "scripts/shell-lib", root / "usr/share/mender-monitor")
        (root / "sub.sh").write_text(SUBSYSTEMS[subsystem])
        (root / "checks").mkdir()
        for number in range(CHECKS):
            (root / f"checks/sub_{number}.sh").write_text("DISKSPACE_NAME=/\nDISKSPACE_THRESHOLD=100\n")
        inner = [sys.executable, __file__, "--seconds", str(seconds), "--inner", way, folder]
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", *user, *inner],
            env={**os.environ, "MENDER_MONITOR_ROOT": folder},
            stdout=subprocess.PIPE,
            check=True,
        )
    result = json.loads(done.stdout)
    return result["forks"], result["cpu"]


def measure(way: str, root: Path, seconds: float) -> dict[str, float]:
    """Run *way*; forks and CPU seconds that a minute of rounds costs."""
    short, long = (used_by(way, root, wanted) for wanted in (WARM_UP, WARM_UP + seconds))
    rounds, forks, used = (after - before for before, after in zip(short, long, strict=True))
    minute = 60 / INTERVAL / rounds
    return {"forks": forks * minute, "cpu": used * minute}


def used_by(way: str, root: Path, seconds: float) -> tuple[float, float, float]:
    """Rounds, forks and CPU seconds of *seconds*."""
    forked, used = next_pid(), cpu()
    if way == "ours":
        asyncio.run(ours(root, seconds))
        rounds = seconds / INTERVAL
    else:
        rounds = loop(LOOPS[way], root, seconds)
    return rounds, next_pid() - forked - 1, cpu() - used


async def ours(root: Path, seconds: float) -> None:
    runner = Runner(root / "no.sock")
    shells = ShellChecks(root / "usr/share/mender-monitor", root / "run", runner)
    jobs = [Job("sub", file, root / "sub.sh", INTERVAL, 60) for file in sorted((root / "checks").iterdir())]
    tasks = [asyncio.create_task(shells.run(job, Sink())) for job in jobs]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await runner.aclose()


def loop(body: str, root: Path, seconds: float) -> float:
    """The plain loop; how many rounds it made. It sleeps without a fork, which no such script does."""
    script = f"""
    cd {root}/usr/share/mender-monitor
    script={root}/sub.sh rounds=0
    exec 9<> <(:)
    end=$((SECONDS + {seconds:.0f}))
    while ((SECONDS < end)); do
        for check in {root}/checks/*.sh; do {body}; done
        ((++rounds))
        read -t {INTERVAL} -u 9
    done
    echo $rounds
    """
    done = subprocess.run(["/bin/bash", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def next_pid() -> int:
    """The number of a process that is made for it."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def cpu() -> float:
    """CPU seconds of this process and of all that have ended below it."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
