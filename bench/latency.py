"""
From an event to its alert in the outbox: median, 95th percentile and worst of 100, in milliseconds.

    python -m bench.latency [--rounds 100] [--python /usr/bin/python3]

Beside it: `tail -F | grep` on the same kind of line. A look every 2 s is the way of the original.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from jeepney import DBusAddress, new_signal
from jeepney.io.asyncio import open_dbus_connection

from bench.support import Device
from tests.fakes.fake_systemd import FakeSystemd
from tests.fakes.private_bus import PrivateBus

# Each check has a connection of its own to the bus.
SIGNAL_CHECKS = 20

Event = Callable[[int], Awaitable[None]]


async def rounds(device: Device, event: Event, count: int) -> list[float]:
    """The milliseconds from each of *count* events to its alert."""
    found = []
    for n in range(count):
        before = device.newest()
        waiting = asyncio.create_task(asyncio.to_thread(device.wait_for_alert, before))
        await asyncio.sleep(random.uniform(0.05, 0.15))  # the waiting has begun; no step with any timer
        start = time.monotonic()
        await event(n)
        found.append((await waiting - start) * 1000)
    return found


def show(name: str, found: list[float]) -> None:
    found.sort()
    middle, late = found[len(found) // 2], found[int(len(found) * 0.95)]
    print(f"{name}: median {middle:.1f}, p95 {late:.1f}, worst {found[-1]:.1f} ms ({len(found)} events)")


async def service(folder: Path, options: argparse.Namespace) -> None:
    with PrivateBus(folder) as bus:
        async with FakeSystemd(bus.address) as systemd:
            with Device(folder / "root", options.python, bus.address) as device:
                names = [f"unit{n}" for n in range(options.rounds)]
                for name in names:
                    systemd.add(f"{name}.service")
                    device.check("service", name, SERVICE_NAME=name)
                await asyncio.to_thread(device.start, len(names))

                async def stop(n: int) -> None:
                    await systemd.change(f"unit{n}.service", "inactive", "dead")

                show("service stopped", await rounds(device, stop, options.rounds))


async def signal(folder: Path, options: argparse.Namespace) -> None:
    with PrivateBus(folder) as bus, Device(folder / "root", options.python, bus.address) as device:
        rule = "type='signal',interface='org.example.Bench',member='M{}'"
        for n in range(SIGNAL_CHECKS):
            device.check("dbus", f"s{n}", DBUS_NAME="bench", DBUS_WATCH_EXPRESSION=rule.format(n))
        await asyncio.to_thread(device.start, SIGNAL_CHECKS)
        connection = await open_dbus_connection(bus.address)
        source = DBusAddress("/org/example", interface="org.example.Bench")

        async def emit(n: int) -> None:
            await connection.send(new_signal(source, f"M{n}", "s", (f"event {n}",)))

        show("signal sent", await rounds(device, emit, SIGNAL_CHECKS))
        await connection.close()


async def log(folder: Path, options: argparse.Namespace) -> None:
    with Device(folder / "root", options.python) as device:
        path = device.root / "app.log"
        path.touch()
        for n in range(options.rounds):
            device.check("log", f"l{n}", SERVICE_NAME="app", LOG_PATTERN=f"error {n} ", LOG_FILE=str(path))
        await asyncio.to_thread(device.start, options.rounds)
        with path.open("ab", buffering=0) as file:

            async def write(n: int) -> None:
                file.write(b"error %d happened\n" % n)

            show(
                f"log line written, {options.rounds} checks on the file",
                await rounds(device, write, options.rounds),
            )


def tail_and_grep(folder: Path, count: int) -> None:
    path = folder / "tail.log"
    path.touch()
    pipe = subprocess.Popen(
        ["/bin/sh", "-c", 'tail -n 0 -F "$1" | grep --line-buffered error', "sh", str(path)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert pipe.stdout is not None
    time.sleep(1)
    found = []
    with path.open("ab", buffering=0) as file:
        for n in range(count):
            time.sleep(random.uniform(0.01, 0.03))
            start = time.monotonic()
            file.write(b"error %d happened\n" % n)
            pipe.stdout.readline()
            found.append((time.monotonic() - start) * 1000)
    show("tail -F | grep", found)
    subprocess.run(["kill", "--", f"-{pipe.pid}"], check=True)
    pipe.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", choices=["service", "signal", "log"])
    options = parser.parse_args()
    for what in (service, signal, log):
        if options.only in (None, what.__name__):
            with tempfile.TemporaryDirectory() as name:
                asyncio.run(what(Path(name), options))
    with tempfile.TemporaryDirectory() as name:
        tail_and_grep(Path(name), options.rounds)
    print("a look every 2 s: median 1000 ms by its nature, worst 2000 ms")


if __name__ == "__main__":
    main()
