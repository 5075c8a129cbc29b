"""
What the daemon costs while nothing happens: CPU, wake-ups, forks, bytes written, memory.

    python -m bench.idle [--services 50] [--logs 20] [--seconds 60] [--python PROGRAM] [--folder /var/tmp]

The folders above a log are watched for renames: choose a FOLDER in which nothing else happens.

50 service checks on a private bus (a stand-in for systemd answers) and 20 log checks. Beside it the way of
the original: a shell loop that looks at each check every 2 seconds, 20 checks.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.support import Cost, Device, cost
from tests.fakes.fake_systemd import FakeSystemd
from tests.fakes.private_bus import PrivateBus

LOOP = """
while :; do
    for n in $(seq 20); do
        ( . /dev/null; grep -q -- "pattern $n" "$1" && echo match ) >/dev/null
    done
    sleep 2
done
"""


async def measure(folder: Path, options: argparse.Namespace) -> None:
    with PrivateBus(folder) as bus:
        async with FakeSystemd(bus.address) as systemd:
            root = folder / "root"
            with Device(root, options.python, bus.address) as device:
                for n in range(options.services):
                    systemd.add(f"unit{n}.service")
                    device.check("service", f"unit{n}", SERVICE_NAME=f"unit{n}")
                for n in range(options.logs):
                    log = root / f"app{n % 10}.log"
                    log.write_text("all is well\n" * 100)
                    device.check(
                        "log", f"app{n}", SERVICE_NAME="app", LOG_PATTERN=f"err{n}", LOG_FILE=str(log)
                    )
                await asyncio.to_thread(device.start, options.services + options.logs)
                started = cost(device.pid)
                print(f"start to the first look of all checks: {started.cpu:.2f} CPU s")
                await asyncio.sleep(15)  # the sender's first attempts are over
                before = cost(device.pid)
                await asyncio.sleep(options.seconds)
                spent = cost(device.pid).since(before)
                show("mender-monitord", spent, options.seconds)
                forks = await asyncio.to_thread(traced_forks, device.pid, 20)
                print(f"  forks in 20 s: {forks}")


def show(name: str, spent: Cost, seconds: float) -> None:
    minutes = seconds / 60
    print(
        f"{name}: {spent.cpu / minutes:.3f} CPU s a minute, {spent.wakeups / minutes:.0f} wake-ups a minute, "
        f"{spent.written} bytes written, RSS {spent.rss / 2**20:.1f} MiB, PSS {spent.pss / 2**20:.1f} MiB"
    )


def traced_forks(pid: int, seconds: float) -> int:
    """How many processes *pid* starts, by strace(1)."""
    with tempfile.NamedTemporaryFile("r") as output:
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", output.name, "-e", "trace=clone,clone3,fork,vfork", "-p", str(pid)],
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        tracer.terminate()
        tracer.wait()
        return len(re.findall(r"\b(?:clone3?|v?fork)\(", output.read()))


def shell_loop(folder: Path, seconds: float) -> None:
    """The same kind of work by a shell that looks every 2 s; children count too (getrusage(2))."""
    log = folder / "loop.log"
    log.write_text("all is well\n" * 100)
    loop = subprocess.Popen(["/bin/bash", "-c", LOOP, "loop", str(log)])
    time.sleep(seconds)
    fields = Path(f"/proc/{loop.pid}/stat").read_text().rpartition(")")[2].split()
    loop.terminate()
    loop.wait()
    ticks = sum(int(fields[n]) for n in (11, 12, 13, 14))
    print(f"shell loop, 20 checks: {ticks / 100 / (seconds / 60):.2f} CPU s a minute")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=50)
    parser.add_argument("--logs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--folder", default="/var/tmp")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        asyncio.run(measure(Path(name), options))
        shell_loop(Path(name), min(options.seconds, 30))


if __name__ == "__main__":
    main()
