"""News of the network, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from mender_monitor_py.host import netlink

_PROGRAM = """
import asyncio
from mender_monitor_py.host.netlink import NetworkWatch

async def main():
    news = asyncio.Event()
    watch = NetworkWatch(news.set)
    print("watching", flush=True)
    async with asyncio.timeout(30):
        await news.wait()
    watch.close()
    watch.close()
    print("news", flush=True)

asyncio.run(main())
"""


def _can_unshare() -> bool:
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="no namespaces here")
@pytest.mark.parametrize("command", ["link set lo up", "address add 192.0.2.1/24 dev lo"])
def test_a_new_address_or_link_is_news(command: str) -> None:
    with subprocess.Popen(
        ["unshare", "-rn", sys.executable, "-c", _PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(netlink.__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        inside = ["nsenter", "-U", "--preserve-credentials", "-n", "-t", str(process.pid)]
        subprocess.run([*inside, "ip", *command.split()], check=True)
        assert process.stdout.readline() == "news\n"
    assert process.returncode == 0


def test_quiet_without_news() -> None:
    async def run() -> int:
        news: list[None] = []
        watch = netlink.NetworkWatch(lambda: news.append(None))
        await asyncio.sleep(0.05)
        watch.close()
        return len(news)

    assert asyncio.run(run()) == 0
