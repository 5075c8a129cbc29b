"""
Programs that live for a millisecond: how many are seen and named, and what that costs. Needs root.

    python -m bench.process_events [--count 2000] [--workers 2]

The process check runs in a process of its own, on a list that expects all programs, while others start them.
Beside it forkstat(8), where it is installed, and psutil with a look each second. Then the latency from the
start of a program to its alert, from a mount over a process's folder in /proc to the alert that it hides, and
from the end of a process to the alert of its restart; beside that monit(1), with a look each 2 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from bench import monit
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.processevents import Execution
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition
from mender_monitor_py.subsystems.pid import PidCheck
from mender_monitor_py.subsystems.process import ProcessCheck, _Watch
from tests.fakes.judging import JudgingReport

SPAWN = """
import os, sys
path, count = sys.argv[1], int(sys.argv[2])
pids = []
for _ in range(count):
    pid = os.posix_spawn(path, [path], {})
    os.waitpid(pid, 0)
    pids.append(pid)
print(*pids)
"""


def spawn(program: Path, count: int, workers: int) -> tuple[set[int], float]:
    """The numbers of *count* processes of *program*, started by *workers* at a time, and how long it took."""
    begun = time.monotonic()
    command = [sys.executable, "-c", SPAWN, str(program), str(count // workers)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    pids = {int(pid) for process in running for pid in process.communicate()[0].split()}
    return pids, time.monotonic() - begun


def watcher(folder: str, connection: Connection) -> None:
    """The check in a process of its own: tells what it saw, and what it cost."""
    seen: dict[int, str] = {}
    executed = _Watch.executed

    def count(self: _Watch, executions: list[Execution]) -> None:
        for one in executions:
            for group in one.programs:
                seen[one.pid] = group[-1].path
        executed(self, executions)

    _Watch.executed = count  # type: ignore[method-assign]

    async def run() -> None:
        values = {"PROCESS_ALLOW": "/**, /** *, elsewhere:/**, elsewhere:/** *"}
        check = ProcessCheck(Definition(CheckId("process", "all"), values), Settings())
        host, report = Host(Paths(Path(folder)), Clock()), JudgingReport(expires_after=3600)
        task = asyncio.get_running_loop().create_task(check.run(host, report))
        await report.until(lambda: report.reason != "starting")
        connection.send("ready")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, connection.recv)
        before = cpu_ms()
        connection.send("measuring")
        await loop.run_in_executor(None, connection.recv)
        await asyncio.sleep(0.3)
        cost = cpu_ms() - before
        connection.send((seen, cost, host.processes.lost, report.notes.get("unnamed", "")))
        task.cancel()
        await asyncio.wait([task])
        await host.aclose()

    asyncio.run(run())


def cpu_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * (used.ru_utime + used.ru_stime)


def ours(folder: Path, program: Path, count: int, workers: int) -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=watcher, args=(str(folder), there))
    process.start()
    here.recv()
    here.send("go")
    here.recv()
    pids, took = spawn(program, count, workers)
    here.send("end")
    seen, cost, lost, unnamed = here.recv()
    process.join()
    named = sum(seen.get(pid) == str(program) for pid in pids)
    report("process check", len(pids), len(pids & seen.keys()), named, cost, took)
    print(f"    {lost} events lost; {unnamed or 'all named'}")


def forkstat(program: Path, count: int, workers: int) -> None:
    if not shutil.which("forkstat"):
        print("forkstat is not installed")
        return
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(["forkstat", "-l", "-e", "exec"], stdout=output)
        time.sleep(1)
        before = child_ms(process.pid)
        pids, took = spawn(program, count, workers)
        time.sleep(0.5)
        cost = child_ms(process.pid) - before
        process.terminate()
        process.wait()
        output.seek(0)
        rows = re.findall(r"^\S+\s+exec\s+(\d+)\s+(.*)$", output.read(), re.MULTILINE)
    found = {int(pid): text for pid, text in rows}
    named = sum(str(program) in found.get(pid, "") for pid in pids)
    report("forkstat -e exec", len(pids), len(pids & found.keys()), named, cost, took)


def polling(program: Path, count: int, workers: int) -> None:
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        print("psutil is not installed")
        return
    found: dict[int, str] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1):
            for one in psutil.process_iter(["pid", "exe"]):
                found[one.info["pid"]] = one.info["exe"] or ""

    thread = threading.Thread(target=look)
    before = cpu_ms()
    thread.start()
    pids, took = spawn(program, count, workers)
    ended.set()
    thread.join()
    named = sum(found.get(pid) == str(program) for pid in pids)
    report("psutil each second", len(pids), len(pids & found.keys()), named, cpu_ms() - before, took)


def child_ms(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def report(name: str, count: int, seen: int, named: int, cost: float, took: float) -> None:
    print(
        f"{name:<20} {count:,} programs in {took:.1f} s: {seen / count:.2%} seen, {named / count:.2%} named, "
        f"{cost / count:.3f} CPU ms each"
    )


async def latency(folder: Path, rounds: int) -> None:
    host = Host(Paths(folder), Clock())

    async def start(check: Check) -> tuple[JudgingReport, asyncio.Task[None]]:
        found = JudgingReport(expires_after=3600)
        task = asyncio.get_running_loop().create_task(check.run(host, found))
        await found.until(lambda: found.reason != "starting")
        return found, task

    values = {"PROCESS_ALLOW": f"{folder}/evil*", "PROCESS_MODE": "deny", "PROCESS_MAX_ALERTS": "10000"}
    seen, first = await start(ProcessCheck(Definition(CheckId("process", "all"), values), Settings()))
    taken = []
    for n in range(rounds):
        evil = shutil.copy("/bin/true", folder / f"evil{n}")
        begun = time.monotonic()
        subprocess.run([evil], check=True)
        await seen.until(partial(seen.is_bad, str(evil)))
        taken.append(1000 * (time.monotonic() - begun))
    show("program started to alert", taken)

    (folder / "empty").mkdir()
    taken = []
    for _ in range(rounds // 5):
        with subprocess.Popen(["/bin/sleep", "600"]) as hiding:
            await asyncio.sleep(0.1)
            begun = time.monotonic()
            subprocess.run(["mount", "--bind", folder / "empty", f"/proc/{hiding.pid}"], check=True)
            await seen.until(partial(seen.is_bad, f"hidden {hiding.pid}"))
            taken.append(1000 * (time.monotonic() - begun))
            subprocess.run(["umount", f"/proc/{hiding.pid}"], check=True)
            hiding.kill()
    show("process covered to alert", taken)

    app = shutil.copy("/bin/sleep", folder / "app")
    process = subprocess.Popen([app, "600"])
    told, second = await start(PidCheck(Definition(CheckId("pid", "app"), {"PID_EXE": str(app)}), Settings()))
    taken = []
    for _ in range(rounds):
        count = told.states["restarted"].seen_at if "restarted" in told.states else 0.0
        begun = time.monotonic()
        process.kill()
        process.wait()
        process = subprocess.Popen([app, "600"])
        await told.until(partial(is_told, told, count))
        taken.append(1000 * (time.monotonic() - begun))
    show("process killed to alert of its restart", taken)
    process.kill()
    process.wait()
    for task in (first, second):
        task.cancel()
        await asyncio.wait([task])
    await host.aclose()


def monit_latency(folder: Path, rounds: int) -> None:
    """How long monit takes to tell a restart, with its shortest useful cycle."""
    app, touched = Path(shutil.copy("/bin/sleep", folder / "app2")), folder / "touched"
    process = subprocess.Popen([app, "600"])
    taken = []
    with monit.running(folder / "monit", 2, [monit.process_check(app, touched)]):
        time.sleep(5)
        for number in range(rounds):
            time.sleep(2 + number / rounds)
            begun = time.monotonic()
            process.kill()
            process.wait()
            process = subprocess.Popen([app, "600"])
            while not touched.exists():
                time.sleep(0.005)
            taken.append(1000 * (time.monotonic() - begun))
            touched.unlink()
    process.kill()
    process.wait()
    show("the same by monit each 2 s", taken)


def is_told(report: JudgingReport, after: float) -> bool:
    """Whether a restart was seen after the moment *after*."""
    return report.is_bad("restarted") and report.states["restarted"].seen_at > after


def show(name: str, taken: list[float]) -> None:
    taken.sort()
    print(f"{name}, {len(taken)} times: median {taken[len(taken) // 2]:.1f} ms, worst {taken[-1]:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    with tempfile.TemporaryDirectory() as name:
        program = Path(shutil.copy("/bin/true", Path(name) / "short"))
        for measure in (forkstat, polling):
            measure(program, options.count, options.workers)
        ours(Path(name), program, options.count, options.workers)
        asyncio.run(latency(Path(name), options.rounds))
        if monit.is_installed():
            monit_latency(Path(name), options.rounds // 5)


if __name__ == "__main__":
    main()
