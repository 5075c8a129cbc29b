"""
Memory and descriptors of the daemon over a time of activity, with 70 checks.

    python -m bench.soak [--minutes 60] [--python /usr/bin/python3]

Lines are written, logs rotated, services stopped and started, checks enabled and disabled all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from bench.support import Device, cost
from tests.fakes.fake_systemd import FakeSystemd
from tests.fakes.private_bus import PrivateBus

REPORT_S = 60.0


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def disturb(device: Device, systemd: FakeSystemd, logs: list[Path]) -> None:
    """One second of a busy device."""
    for log in random.sample(logs, 3):
        with log.open("a") as file:
            file.write("all is well\n" * 200)
            if random.random() < 0.2:
                file.write(f"error {random.randrange(20)} happened\n")
    if random.random() < 0.1:
        log = random.choice(logs)
        log.rename(log.with_suffix(".log.1"))
        log.touch()
    name = f"unit{random.randrange(50)}.service"
    down = systemd.units[name].active == "active"
    await systemd.change(name, *(("inactive", "dead") if down else ("active", "running")))
    if random.random() < 0.2:
        link = device.etc / "monitor.d/enabled/log_app7.sh"
        if link.is_symlink():
            link.unlink()
        else:
            link.symlink_to("../available/log_app7.sh")
    await asyncio.sleep(1)


async def soak(folder: Path, options: argparse.Namespace) -> None:
    with PrivateBus(folder) as bus:
        async with FakeSystemd(bus.address) as systemd:
            root = folder / "root"
            with Device(root, options.python, bus.address) as device:
                for n in range(50):
                    systemd.add(f"unit{n}.service")
                    device.check("service", f"unit{n}", SERVICE_NAME=f"unit{n}")
                logs = [root / f"app{n}.log" for n in range(10)]
                for n in range(20):
                    logs[n % 10].touch()
                    device.check(
                        "log",
                        f"app{n}",
                        SERVICE_NAME="app",
                        LOG_PATTERN=f"error {n} ",
                        LOG_FILE=str(logs[n % 10]),
                        LOG_PATTERN_EXPIRATION="20",
                    )
                await asyncio.to_thread(device.start, 70)
                began = time.monotonic()
                report = began
                while (now := time.monotonic()) < began + options.minutes * 60:
                    if now >= report:
                        used = cost(device.pid)
                        print(
                            f"{(now - began) / 60:5.1f} min: RSS {used.rss / 2**20:.1f} MiB, "
                            f"{descriptors(device.pid)} descriptors, {used.cpu:.2f} CPU s, "
                            f"{device.newest()} alerts",
                            flush=True,
                        )
                        report += REPORT_S
                    await disturb(device, systemd, logs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(soak(Path(name), options))


if __name__ == "__main__":
    main()
