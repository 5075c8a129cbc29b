"""
Lines a CPU second through the log subsystem, beside ``grep -P`` and Python's ``re`` on the same file.

    python -m bench.log_throughput [--megabytes 200] [--rounds 3] [--folder FOLDER]

One check and 20 checks of one file, as the daemon runs them: each with a stream and a pattern of its own.
grep is run once for each pattern. Figures are the best of the rounds; ``re`` judges a tenth of the file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mender_monitor_py.host.follow import Files
from mender_monitor_py.host.inotify import Inotify
from mender_monitor_py.host.pattern import Pattern, compile_pattern

# None of them matches: a log is read for what is seldom there.
PATTERNS = (
    r"CVE.*HIGH",
    r"segfault at [0-9a-f]+ ip",
    r"(?i)out of memory",
    r"\bpanic\b|\boops\b",
    r"I/O error, dev \w+",
    r"Failed password for .* from \d+\.\d+",
    r"authentication failure;.*user=root",
    r"^\w{3} +\d+ [\d:]+ \S+ kernel: .*EXT4-fs error",
    r"usb \d+-\d+: USB disconnect",
    r"temperature above threshold",
    r"[Ww]atchdog.*(timeout|expired)",
    r"Call Trace:",
    r"device (eth|wlan)\d+ left promiscuous mode",
    r"\[(error|crit|alert|emerg)\]",
    r'"status": ?5\d\d',
    r"connection (refused|reset) by peer$",
    r"disk .* is full",
    r"certificate (has )?expired",
    r"container kill.*name=scanner",
    r"(?<!no )error code=(?!0\b)\d+",
)

LINES = (
    b"Jan 31 12:00:%02d device sshd[%d]: Accepted publickey for user%d from 10.0.%d.7 port 51234 ssh2\n",
    b"Jan 31 12:00:%02d device systemd[1]: Started session-%d.scope - Session %d of user %d.\n",
    b"Jan 31 12:00:%02d device kernel: [%d.123456] usb %d-%d: new high-speed USB device using xhci_hcd\n",
    b"Jan 31 12:00:%02d device CRON[%d]: (root) CMD (test -x /usr/sbin/anacron && job %d %d)\n",
    b"Jan 31 12:00:%02d device app[%d]: request id=%d took %d ms, no error code=0\n",
    b'Jan 31 12:00:%02d device mender[%d]: level=info msg="State transition: %d -> %d"\n',
)


def write_log(path: Path, megabytes: int) -> int:
    """A log of that size. Returns its lines."""
    count = 0
    with path.open("wb") as file:
        while file.tell() < megabytes * 1_000_000:
            numbers = range(count, count + 6_000)
            file.write(b"".join(LINES[n % 6] % (n % 60, n % 9973, n % 97, n % 251) for n in numbers))
            count += 6_000
    return count


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def spent(work: Callable[[], object], who: int, rounds: int) -> float:
    """CPU seconds of *work*, the least of the rounds."""
    results = []
    for _ in range(rounds):
        before = cpu(who)
        work()
        results.append(cpu(who) - before)
    return min(results)


def follow(path: Path, patterns: list[Pattern]) -> None:
    """Read *path* to its end with one check a pattern."""

    async def check(files: Files, pattern: Pattern) -> None:
        stream = files.follow(path)
        left = path.stat().st_size
        while left:
            block = await stream.next()
            assert block is not None
            assert pattern.find(block.data) is None
            left -= len(block.data)
        stream.close()

    async def checks() -> None:
        inotify = Inotify()
        files = Files(inotify)
        await asyncio.gather(*(check(files, pattern) for pattern in patterns))
        await files.aclose()
        inotify.close()

    asyncio.run(checks())


def grep(path: Path, patterns: tuple[str, ...]) -> None:
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    for pattern in patterns:
        command = ["grep", "-c", "-P", "-e", pattern, str(path)]
        found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert found.stdout == "0\n", (pattern, found)


def by_re(lines: list[bytes], patterns: tuple[str, ...]) -> None:
    searches = [re.compile(pattern.encode()).search for pattern in patterns]
    for line in lines:
        for search in searches:
            assert search(line) is None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        log = Path(folder) / "app.log"
        count = write_log(log, options.megabytes)
        with log.open("rb") as file:
            some = file.readlines(log.stat().st_size // 10)
        print(f"{options.megabytes} MB, {count} lines; million lines a CPU second:")
        for number, goal in ((1, 0.8), (len(PATTERNS), 2.0)):
            chosen = PATTERNS[:number]
            compiled = [compile_pattern(pattern) for pattern in chosen]
            ours = spent(partial(follow, log, compiled), resource.RUSAGE_SELF, options.rounds)
            greps = spent(partial(grep, log, chosen), resource.RUSAGE_CHILDREN, options.rounds)
            python = spent(partial(by_re, some, chosen), resource.RUSAGE_SELF, 1)
            rates = (count / ours / 1e6, count / greps / 1e6, len(some) / python / 1e6)
            print(
                f"{number:2} patterns: log checks {rates[0]:.2f}, grep -P {rates[1]:.2f}, re {rates[2]:.2f};"
            )
            print(
                f"    {rates[0] / rates[1]:.2f} times grep (goal: {goal}), {rates[0] / rates[2]:.1f} times re"
            )


if __name__ == "__main__":
    main()
