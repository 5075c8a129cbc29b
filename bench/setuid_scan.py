"""
What a scan for set-uid executables costs, beside find.

    python -m bench.setuid_scan [--files 200000] [--rounds 9] [--python /usr/bin/python3]

A tree of empty files on a memory file system, then the machine's own root file system. CPU of the processes
as getrusage(2) has it; the scan's with the start of its interpreter. In each round find runs just before the
scan, and the two are compared: the median, and the least and the greatest of the rounds. Both find all in the
memory of the kernel: it is read once before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.support import PROJECT
from mender_monitor_py.host.mounts import read_mounts


def cpu(command: Sequence[str], request: str = "") -> tuple[float, float, str]:
    """CPU seconds, seconds and the output of *command*, whose input stays open as the watcher's does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="surrogateescape",
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    output = process.stdout.read()
    process.stdin.close()
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.monotonic() - start, output


def compare(title: str, path: str, stop: list[str], options: argparse.Namespace) -> None:
    scan = [options.python, "-P", str(PROJECT / "mender_monitor_py/scan.py")]  # as the watcher starts it
    find = ["find", path, "-xdev", "-perm", "/6000"]
    request = {"do": "setuid", "walks": [path], "stop": stop, "exclude": "", "bits": 0o6000, "idle": False}
    runs: dict[str, list[tuple[float, float, str]]] = {"find": [], "suid, sgid": [], "with caps": []}
    cpu(find)
    for _ in range(options.rounds):
        runs["find"].append(cpu(find))
        for name, caps in (("suid, sgid", False), ("with caps", True)):
            runs[name].append(cpu(scan, json.dumps({**request, "caps": caps}) + "\n"))
    summary = json.loads(runs["with caps"][-1][2].splitlines()[-1])
    print(f"{title}: {summary['files']:,} files, {summary['folders']:,} folders, {summary['found']} found")
    print(f"  find: {statistics.median(run[0] for run in runs['find']):.3f} CPU s")
    for name in ("suid, sgid", "with caps"):
        done = runs[name]
        spent = statistics.median(run[0] for run in done)
        ratios = [run[0] / find[0] for run, find in zip(done, runs["find"], strict=True)]
        shown = f"{statistics.median(ratios):.2f} of find, {min(ratios):.2f} to {max(ratios):.2f}"
        print(f"  {name}: {spent:.3f} CPU s, {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    # As where a package installed it: compiled beforehand.
    subprocess.run([options.python, "-m", "compileall", "-q", str(PROJECT / "mender_monitor_py")], check=True)
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as name:
        for folder in range(options.files // 500):
            (Path(name) / str(folder)).mkdir()
            for number in range(500):
                (Path(name) / str(folder) / str(number)).touch()
        compare("one tree", name, [], options)
    compare("/", "/", [mount.path for mount in read_mounts() if mount.path != "/"], options)


if __name__ == "__main__":
    main()
