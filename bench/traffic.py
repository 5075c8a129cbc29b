"""
What a look at the interfaces' counters costs, and what it costs to know whose traffic it is, beside peers.

    /usr/bin/python3 -m bench.traffic [--looks 200] [--peer-looks 20] [--seconds 60]

In a network namespace of its own. CPU time of this process, in milliseconds a look. vnstatd runs for a while
with its usual interval, where it is installed: its CPU time of a minute, and ours with looks each 10 s.
Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyroute2 import DiagSocket, IPRoute  # type: ignore[import-not-found]

from bench.support import cost
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.interfaces import Interfaces
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.tcpcounters import TcpCounters
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.traffic import TrafficCheck
from mender_monitor_py.subsystems.trafficprocesses import Connections
from mender_monitor_py.trafficshares import Shares
from tests.fakes.judging import JudgingReport
from tests.fakes.network import Neighbour, in_own_network, ip, running

# Connections with the neighbour, each of which sends a little when a line comes.
HOLD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
keep = [socket.create_connection(("192.0.2.2", 9)) for _ in range(int(sys.argv[1]))]
for s in keep:
    s.sendall(b"1000000 0\\n" + bytes(4096))
print("ready", flush=True)
import time
time.sleep(6000)
"""


def cpu_ms(look: Callable[[], object], times: int) -> float:
    look()
    before = time.process_time()
    for _ in range(times):
        look()
    return 1000 * (time.process_time() - before) / times


def compare(title: str, ours: float, peers: dict[str, float]) -> None:
    beside = "".join(f"   {name} {ms:.3f} ({ms / ours:.1f}x)" for name, ms in peers.items())
    print(f"{title:<28} {ours:.3f}{beside}", flush=True)


def proc_net_dev() -> dict[str, tuple[int, int]]:
    """As a script would: the text of /proc/net/dev, in this thread's network."""
    rows = (line.partition(":") for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:])
    return {name.strip(): (int(f[0]), int(f[8])) for name, _, rest in rows if (f := rest.split())}


def counters(options: argparse.Namespace, interfaces: int) -> None:
    ours = Interfaces()
    with IPRoute() as route:
        compare(
            f"counters, {interfaces} interfaces",
            cpu_ms(ours.counters, options.looks),
            {
                "/proc/net/dev": cpu_ms(proc_net_dev, options.looks),
                "pyroute2": cpu_ms(lambda: list(route.get_links()), options.peer_looks),
            },
        )
    ours.close()


def connections(options: argparse.Namespace, count: int) -> None:
    with running(sys.executable, HOLD, str(count)):
        tcp, interfaces = TcpCounters(), Interfaces()
        addresses = interfaces.addresses()
        index = addresses[bytes([192, 0, 2, 1])]
        with DiagSocket() as diag:

            def pyroute2() -> None:
                list(diag.get_sock_stats(family=2, states=2, extensions=2))

            compare(
                f"TCP counters, {count:,} connections",
                cpu_ms(lambda: list(tcp.connections()), options.looks),
                {
                    "ss -tip": child_ms(["ss", "-Htip"], options.peer_looks),
                    "pyroute2": cpu_ms(pyroute2, min(options.peer_looks, 3)),
                },
            )
        follow, shares = Connections(Procfs(), 1024), {index: Shares(3600.0, 20.0)}
        clock = iter(range(10**6))

        def look() -> None:
            follow.look(float(next(clock)), addresses, shares, living=True)

        compare("  with their processes", cpu_ms(look, options.looks), {})
        follow.close()
        tcp.close()
        interfaces.close()


def child_ms(command: list[str], times: int) -> float:
    before = os.times()
    for _ in range(times):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return 1000 * spent / times


async def idle(options: argparse.Namespace, folder: Path) -> None:
    """The check as it is shipped, while next to nothing is transferred; and vnstatd."""
    check = TrafficCheck(Definition(CheckId("traffic", "x"), {"TRAFFIC_INTERFACE": "wwan0"}), Settings())
    host, report = Host(Paths(folder), Clock()), JudgingReport()
    task = asyncio.get_running_loop().create_task(check.run(host, report))
    await report.until(lambda: report.reason == "")
    before = time.process_time()
    await asyncio.sleep(options.seconds)
    ours = 60 * (time.process_time() - before) / options.seconds
    task.cancel()
    await asyncio.wait([task])
    await host.aclose()
    print(f"a minute, idle: {1000 * ours:.1f} ms of CPU")
    daemon = shutil.which("vnstatd")
    if daemon is None:
        print("vnstatd is not installed")
        return
    with subprocess.Popen([daemon, "--nodaemon", "--alwaysadd", "--config", config(folder)]) as process:
        await asyncio.sleep(5)
        start = cost(process.pid)
        await asyncio.sleep(options.seconds)
        spent = cost(process.pid).since(start)
        process.terminate()
    peer = 60 * spent.cpu / options.seconds
    print(f"vnstatd: {1000 * peer:.1f} ms ({peer / ours:.1f}x), {spent.written} bytes written")


def config(folder: Path) -> str:
    """vnstatd takes every other file in the folder of its database for an old one."""
    file, database = folder / "vnstat.conf", folder / "database"
    database.mkdir()
    file.write_text(f'DatabaseDir "{database}"\nDaemonUser ""\nDaemonGroup ""\nUseLogging 0\n')
    return str(file)


def measure(options: argparse.Namespace) -> None:
    with Neighbour() as neighbour, tempfile.TemporaryDirectory() as name:
        neighbour.connect("wwan0")
        print("CPU milliseconds a look")
        counters(options, 2)
        for count in (10, 100, 1000):
            connections(options, count)
        asyncio.run(idle(options, Path(name)))
        for number in range(24):
            ip(f"link add left{number} type veth peer name right{number}")
        counters(options, 50)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--looks", type=int, default=200)
    parser.add_argument("--peer-looks", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    in_own_network(lambda: measure(options))


if __name__ == "__main__":
    main()
