"""
What a look at the open ports costs, beside `ss -ltunp` and, where it is installed, psutil.

    python -m bench.ports [--looks 50] [--peer-looks 5]

In a network namespace of its own, with 10, 500 and 5,000 sockets: TCP that listens, UDP that is bound, and
established TCP, which no look should have to pay for. A look is the check's own: the kernel's dump, and who
holds a socket that was not there before. CPU time of the process with its children, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.openports import OpenPorts
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.replaced import Replaced
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.ports import PortsCheck
from tests.fakes.judging import JudgingReport
from tests.fakes.network import LISTEN, in_own_network, running

try:
    import psutil  # type: ignore[import-untyped]
except ImportError:
    psutil = None

GOALS = {10: 0.2, 500: 0.6, 5000: 4.0}

HOLD = """
import resource, socket, sys, time
kind, count = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
keep = []
if kind == "established":
    server = socket.create_server(("127.0.0.1", 9), backlog=100)
    for _ in range(count // 2):
        keep += [socket.create_connection(("127.0.0.1", 9)), server.accept()[0]]
for n in range(count if kind != "established" else 0):
    s = socket.socket(type=socket.SOCK_STREAM if kind == "listening" else socket.SOCK_DGRAM)
    s.bind((f"127.0.{n // 200}.{n % 200 + 1}", 20000 + n % 7 if kind == "listening" else 1000 + n))
    if kind == "listening":
        s.listen()
    keep.append(s)
print("ready", flush=True)
time.sleep(6000)
"""


def cpu_ms() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime)


def measure(looks: int, peer_looks: int) -> None:
    print(
        f"{'sockets':>22} {'first':>8} {'look':>8} {'goal':>6} "
        f"{'ss -p':>8} {'ratio':>7} {'psutil':>8} {'ratio':>7}"
    )
    for kind in ("listening", "udp", "established"):
        for count in (10, 500, 5000):
            with running(sys.executable, HOLD, kind, str(count)):
                row(kind, count, looks, peer_looks)


def row(kind: str, count: int, looks: int, peer_looks: int) -> None:
    procfs = Procfs()
    ports = OpenPorts(procfs, Replaced(procfs), ("tcp", "udp"), all_namespaces=False)
    before = cpu_ms()
    found = ports.look(lambda one: True)
    first = cpu_ms() - before
    assert found is not None
    assert len(found) == (count if kind != "established" else 1)
    before = cpu_ms()
    for _ in range(looks):
        assert ports.look(lambda one: True) is None
    look = (cpu_ms() - before) / looks
    ports.close()
    before = cpu_ms()
    for _ in range(peer_looks):
        subprocess.run(["ss", "-Hltunp"], check=True, stdout=subprocess.DEVNULL)
    ss = (cpu_ms() - before) / peer_looks
    text = (
        f"{count:>10,} {kind:<11} {first:>8.2f} {look:>8.3f} {GOALS[count]:>6} {ss:>8.1f} {ss / look:>6.0f}x"
    )
    if psutil is not None:
        before = cpu_ms()
        for _ in range(peer_looks):
            psutil.net_connections("inet")
        other = (cpu_ms() - before) / peer_looks
        text += f" {other:>8.1f} {other / look:>6.0f}x"
    print(text, flush=True)


async def latency(folder: Path, rounds: int) -> None:
    """From the listener's start to the alert, with the interval of 2 seconds as shipped."""
    values = {"PORTS_ALLOW": "tcp 1 none /none", "PORTS_INTERVAL": "2s"}
    check = PortsCheck(Definition(CheckId("ports", "external"), values), Settings())
    host, report = Host(Paths(folder), Clock()), JudgingReport()
    task = asyncio.get_running_loop().create_task(check.run(host, report))
    taken = []
    for n in range(rounds):
        with running(sys.executable, LISTEN, "tcp", "0.0.0.0", str(2000 + n)):
            begun = time.monotonic()
            await report.until(lambda: report.open)
            taken.append(time.monotonic() - begun)
        await report.until(lambda: not report.open)
    task.cancel()
    await asyncio.wait([task])
    await host.aclose()
    taken.sort()
    print(f"listening to alert, {rounds} times: median {taken[rounds // 2]:.2f} s, worst {taken[-1]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--looks", type=int, default=50)
    parser.add_argument("--peer-looks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    socket.setdefaulttimeout(10)
    in_own_network(lambda: measure(options.looks, options.peer_looks))
    with tempfile.TemporaryDirectory() as name:
        in_own_network(lambda: asyncio.run(latency(Path(name), options.rounds)))


if __name__ == "__main__":
    main()
