"""
What looking at executables costs: the full reading beside sha256sum and AIDE, the pass over their states
beside the full reading, and the daemon while nothing happens.

    python -m bench.integrity [--rounds 3] [--python /usr/bin/python3] [FOLDER...]

FOLDERs hold the executables; /usr/bin /usr/sbin /usr/lib/x86_64-linux-gnu without any. AIDE is left out where
it is not installed. CPU of the processes as getrusage(2) has it, the least of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.setuid_scan import cpu
from mender_monitor_py.baseline import Glob, parse, render
from mender_monitor_py.host.filestates import FileStates, executable, expand
from mender_monitor_py.host.scanner import Hashed, Scanner
from mender_monitor_py.integritylist import Entry, judge

FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")


def hashing(files: list[str], options: argparse.Namespace) -> float:
    """The least CPU seconds of the full reading."""
    request = json.dumps({"do": "hash", "files": files, "rate": 0, "idle": False}) + "\n"
    return min(
        cpu([options.python, "-m", "mender_monitor_py.scan"], request)[0] for _ in range(options.rounds)
    )


def sha256sum(files: list[str], rounds: int) -> float:
    def once() -> float:
        return sum(
            cpu(["sha256sum", *files[start : start + 2000]])[0] for start in range(0, len(files), 2000)
        )

    return min(once() for _ in range(rounds))


def aide(files: list[str], folder: Path, rounds: int) -> float:
    """The same files, the same facts: content by SHA-256, inode, mode, owner."""
    config = folder / "aide.conf"
    patterns = [re.sub(r"([^/A-Za-z0-9_-])", r"\\\1", file) for file in files]
    rules = "".join(f"={pattern}$ p+u+g+i+s+m+c+sha256\n" for pattern in patterns)
    config.write_text(
        f"database_in=file:{folder}/aide.db\ndatabase_out=file:{folder}/aide.new\ngzip_dbout=no\n"
        f"report_url=file:{folder}/report\n{rules}"
    )
    subprocess.run(["aide", "--init", f"--config={config}"], check=True, stdout=subprocess.DEVNULL)
    (folder / "aide.new").rename(folder / "aide.db")
    return min(cpu(["aide", "--check", f"--config={config}"])[0] for _ in range(rounds))


def passing(found: list[Hashed], rounds: int) -> float:
    """The least CPU seconds of a pass over states that are as they were."""
    entries = parse(render("integrity x", 1, [executable(one).row for one in found]), "", Entry.parse).entries
    listed = {entry.literal: [entry] for entry in entries}
    states = FileStates()
    for one in found:
        states.learn(one, listed[one.path])

    def once() -> float:
        start = time.process_time()
        for path, about in listed.items():
            known = states.known(path, states.look(path))
            assert known is not None and not judge(about, known).kind
        return time.process_time() - start

    return min(once() for _ in range(max(rounds, 5)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    files = [
        file
        for file in expand(Glob(f"{folder}/*") for folder in options.folders)
        if not Path(file).is_symlink()
    ]
    size = sum(Path(file).stat().st_size for file in files)
    print(f"{len(files):,} files, {size / 1e6:,.0f} MB")
    start = time.monotonic()
    found = asyncio.run(Scanner().hash_all(files))
    print(f"learn, on all processors at idle priority: {time.monotonic() - start:.2f} s")
    full = hashing(files, options)
    print(f"full reading: {full:.2f} CPU s")
    plain = sha256sum(files, options.rounds)
    print(f"sha256sum: {plain:.2f} CPU s; the full reading is {full / plain:.2f} of it")
    states = passing([one for one in found if not one.error], options.rounds)
    print(f"pass over the states: {states * 1000:.1f} CPU ms, 1/{full / states:.0f} of the full reading")
    if shutil.which("aide"):
        with tempfile.TemporaryDirectory() as name:
            theirs = aide(files, Path(name), options.rounds)
        print(f"aide --check: {theirs:.2f} CPU s; the full reading is {full / theirs:.2f} of it")


if __name__ == "__main__":
    main()
