"""
What the check of a wireless interface costs, beside pyroute2 and iw, in the virtual machine of the tests.

    python -m bench.wifi [--looks 50] [--rounds 10]

Twelve networks are in range, the station is on one of them. Under emulation all of it is many times slower
than on a device: only the ratios say something. CPU is that of the process with its children, in the kernel
too. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mender_monitor_py import nl80211
from mender_monitor_py.host import wireless
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.netlinksocket import NetlinkSocket
from mender_monitor_py.model import CheckId
from mender_monitor_py.netlinkmessages import messages
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.wifi import WifiCheck
from tests.fakes.judging import JudgingReport
from tests.system.vm import unavailable
from tests.system.wifi import in_guest, wifi_vm
from tests.system.wifi_air import POINTS, STA, Air

IMPORTS = {
    "nothing": "pass",
    "what the watcher has": "import mender_monitor_py.daemon",
    "the same, and ours": "import mender_monitor_py.daemon, mender_monitor_py.subsystems.wifi",
    "the same, and pyroute2": "import mender_monitor_py.daemon, pyroute2.iwutil",
}
COST = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(used.ru_utime + used.ru_stime, rss)
"""
# Prints when it knows the network after each CONNECT, by the clock that all processes share.
PEER = """
import sys, time
from pyroute2.iwutil import IW
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.nl80211 import NL80211, NL80211_NAMES, nl80211cmd

def current(iw, ifindex):
    message = nl80211cmd()
    message["cmd"] = NL80211_NAMES["NL80211_CMD_GET_SCAN"]
    message["attrs"] = [["NL80211_ATTR_IFINDEX", ifindex]]
    for found in iw.nlm_request(message, msg_type=iw.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP):
        bss = found.get_attr("NL80211_ATTR_BSS")
        if bss.get_attr("NL80211_BSS_STATUS") == 1:
            return bss.get_attr("NL80211_BSS_BSSID"), bss.get_attr("NL80211_BSS_INFORMATION_ELEMENTS")

iw, index = IW(), int(sys.argv[1])
if sys.argv[2] == "look":
    before = time.process_time()
    for _ in range(int(sys.argv[3])):
        assert current(iw, index)
    print((time.process_time() - before) / int(sys.argv[3]))
else:
    events = NL80211()
    events.bind()
    events.add_membership("mlme")
    print("ready", flush=True)
    while True:
        for message in events.get():
            where = message.get_attr("NL80211_ATTR_IFINDEX")
            if where == index and message.get("event") == "NL80211_CMD_CONNECT":
                current(iw, index)
                print(time.monotonic(), flush=True)
"""


def imports() -> None:
    """What the modules cost to load: the least of four, the first of which fills the caches."""
    found: dict[str, list[tuple[float, float]]] = {title: [] for title in IMPORTS}
    for _ in range(4):
        for title, code in IMPORTS.items():
            command = [sys.executable, "-c", code + COST]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            cpu_s, rss_kib = map(float, done.stdout.split())
            found[title].append((cpu_s, rss_kib))
    for title, runs in found.items():
        cpu_s, rss_kib = map(min, zip(*runs, strict=True))
        print(f"{title:<24} {cpu_s:.2f} CPU s, RSS {rss_kib / 1024:.1f} MiB", flush=True)


def cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def per_call(call: Callable[[], object], count: int) -> float:
    """CPU seconds of a call."""
    before = cpu()
    for _ in range(count):
        call()
    return (cpu() - before) / count


def looks(count: int) -> None:
    """What a look costs."""
    index = socket.if_nametoindex(STA)
    wireless.look(STA)
    ours = per_call(lambda: wireless.look(STA), count)
    iw = ["iw", "dev", STA, "link"]
    rows = {
        "a look of ours": ours,
        "iw dev wlan link": per_call(lambda: subprocess.run(iw, stdout=subprocess.DEVNULL, check=True), 10),
        "pyroute2, kept open": float(peer(index, "look", "10")),
    }
    for title, seconds in rows.items():
        print(f"{title:<24} {1000 * seconds:.1f} ms of CPU, ours = 1: {seconds / ours:.1f}", flush=True)


def peer(index: int, *arguments: str) -> str:
    command = [sys.executable, "-c", PEER, str(index), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Connects(threading.Thread):
    """The moments of the kernel's CONNECT events."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        kernel = NetlinkSocket(16)
        families = kernel.dump(nl80211.GENL_ID_CTRL, nl80211.request(nl80211.CTRL_GET_FAMILY))
        kernel.close()
        self._family = next(filter(None, (nl80211.family(one.body) for one in families)))
        self._index = socket.if_nametoindex(STA)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
        self._socket.bind((0, 0))
        self._socket.setsockopt(270, 1, self._family.groups["mlme"])  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
        self.last = 0.0

    def run(self) -> None:
        while True:
            data = self._socket.recv(65_536)
            now = time.monotonic()
            for message in messages(data):
                event = nl80211.event(message.body)
                if event is not None and event[:2] == (nl80211.CONNECT, self._index):
                    self.last = now


async def latency(air: Air, rounds: int) -> None:
    """From the kernel's event to the alert, and to what pyroute2 knows."""
    connects = Connects()
    connects.start()
    command = [sys.executable, "-c", PEER, str(socket.if_nametoindex(STA)), "events"]
    check = WifiCheck(
        Definition(CheckId("wifi", STA), {"WIFI_INTERFACE": STA, "WIFI_BSSID": POINTS["floor"].bssid}),
        Settings(),
    )
    ours: list[float] = []
    theirs: list[float] = []
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        host, report = Host(Paths(Path(name)), Clock()), JudgingReport()
        task = asyncio.get_running_loop().create_task(check.run(host, report))
        await report.until(lambda: report.notes.get("network"))
        for _ in range(rounds):
            await asyncio.to_thread(air.choose, "open")  # no keys: the event is all there is to wait for
            await report.until(lambda: report.open)
            ours.append(time.monotonic() - connects.last)
            theirs.append(float(await asyncio.to_thread(other.stdout.readline)) - connects.last)
            await asyncio.to_thread(air.connect, "floor")
            await report.until(lambda: not report.open)
            await asyncio.to_thread(other.stdout.readline)
        task.cancel()
        await asyncio.wait([task])
        await host.aclose()
        other.kill()
    for title, taken in (("event to our alert", ours), ("event to pyroute2's answer", theirs)):
        taken.sort()
        print(f"{title:<26} median {taken[len(taken) // 2]:.3f} s, worst {taken[-1]:.3f} s", flush=True)


def guest(options: argparse.Namespace) -> None:
    imports()
    with Air() as air:
        air.connect("floor")
        looks(options.looks)
        asyncio.run(latency(air, options.rounds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--looks", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--guest", action="store_true", help="this is the virtual machine")
    options = parser.parse_args()
    if options.guest:
        guest(options)
        return
    if reason := unavailable():
        sys.exit(reason)
    with wifi_vm() as vm:
        print(f"by {vm.accelerator}")
        print(in_guest(vm, "bench.wifi", "--guest", f"--looks={options.looks}", f"--rounds={options.rounds}"))


if __name__ == "__main__":
    main()
