"""Real transfers between network namespaces, over cables that are pulled, renamed and put back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.tcpcounters import TcpCounters
from mender_monitor_py.model import CRITICAL, OK, CheckId, Stamp
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.traffic import TrafficCheck
from mender_monitor_py.subsystems.trafficprocesses import is_own_unit
from tests.fakes.judging import JudgingReport
from tests.fakes.network import TRANSFER, Neighbour, end_of_connection, in_own_network, ip, program, running
from tests.fakes.watched import elapse
from tests.fakes.watched import looked as watched

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
CHECK = CheckId("traffic", "uplink")
FOUR, SIX = "192.0.2.2", "2001:db8:2::2"
NAME = "High data transfer on wwan0"
KIB, MIB = 1024, 1024**2


class MovableClock(Clock):
    """The machine's clock in another boot, or with another wall time."""

    def __init__(self, boot: str = "first") -> None:
        super().__init__()
        self.boot = boot
        self.booted = 0.0
        self.off = 0.0  # seconds that the wall clock is ahead

    def boottime(self) -> float:
        return super().boottime() - self.booted

    def now(self) -> Stamp:
        found = super().now()
        return replace(found, boot_id=self.boot, boottime=self.boottime(), wall=found.wall + self.off)

    def reboot(self, boot: str) -> None:
        """This moment is the boot."""
        self.boot, self.booted = boot, super().boottime()


def check(**values: str) -> TrafficCheck:
    values = {"TRAFFIC_INTERFACE": "wwan0", **values}
    made = TrafficCheck(Definition(CHECK, values), Settings())
    made.interval = 0.05
    return made


def in_network(scenario: Callable[[Neighbour], Coroutine[Any, Any, None]]) -> None:
    """Run *scenario* in a network of its own, with a neighbour behind wwan0."""

    def run() -> None:
        with Neighbour() as neighbour:
            neighbour.connect("wwan0")
            asyncio.run(scenario(neighbour))

    in_own_network(run)


async def transfer(address: str, up: int, down: int = 0) -> None:
    """Send and receive so many bytes, by a process of its own that ends then."""
    command = [sys.executable, "-I", "-S", "-c", TRANSFER.replace("time.sleep(600)", ""), address]
    process = await asyncio.create_subprocess_exec(*command, str(up), str(down), stdout=subprocess.DEVNULL)
    assert await process.wait() == 0


async def looks() -> None:
    """A few looks pass."""
    await elapse(0.3)


@pytest.mark.parametrize("address", [FOUR, SIX])
@pytest.mark.parametrize(
    ("direction", "up", "down"), [("tx", 2 * MIB, 0), ("rx", 0, 2 * MIB), ("both", 700 * KIB, 700 * KIB)]
)
def test_more_than_the_limit_is_an_alert_that_names_the_process(
    paths, tmp_path, address, direction, up, down
):
    async def scenario(neighbour: Neighbour) -> None:
        async with watched(paths, check(TRAFFIC_DIRECTION=direction)) as report:
            await transfer(address, min(up, 100 * KIB), min(down, 100 * KIB))
            await looks()
            assert report.alerts == []
            thief = program(tmp_path, "thief")
            with running(thief, TRANSFER, address, str(up), str(down)) as process:
                await report.until(lambda: report.alerts)
                (alert,) = report.alerts
                assert (alert.level, alert.name, alert.subject.name) == (CRITICAL, NAME, "wwan0")
                text = alert.details.description
                assert f"1. {thief}: " in text
                assert f"   pid: {process.first_line}\n" in text
                assert "within 1h, limit 1.0M" in text

    in_network(scenario)


@pytest.mark.parametrize("address", [FOUR, SIX])
@pytest.mark.parametrize(
    ("direction", "up", "down"),
    [("tx", 900 * KIB, 2 * MIB), ("rx", 2 * MIB, 900 * KIB), ("both", 450 * KIB, 450 * KIB)],
)
def test_less_than_the_limit_is_none(paths, address, direction, up, down):
    """What the other end says in reply, and headers, are some hundredths of what is transferred."""

    async def scenario(neighbour: Neighbour) -> None:
        one = check(TRAFFIC_DIRECTION=direction, TRAFFIC_LIMIT="1100K")
        async with watched(paths, one) as report:
            await transfer(address, up, down)
            await looks()
            assert report.alerts == []
            assert "wwan0: " in report.notes["window"]

    in_network(scenario)


def test_it_is_over_when_the_window_has_moved_on(paths):
    async def scenario(neighbour: Neighbour) -> None:
        async with watched(paths, check(TRAFFIC_WINDOW="2s", TRAFFIC_INTERVAL="1s")) as report:
            await transfer(FOUR, 2 * MIB)
            await report.until(lambda: len(report.alerts) == 2)
            assert [(a.level, a.subject.status) for a in report.alerts] == [
                (CRITICAL, "high"),
                (OK, "normal"),
            ]
            assert "limit 1.0M" in report.alerts[1].details.description

    in_network(scenario)


def test_the_process_that_sent_most_comes_first(paths, tmp_path):
    """
    Among others: of one that ended, its connection's other end is named.

    The alert comes when the last one has sent more than 0.8M of its 1.5M.
    """

    async def scenario(neighbour: Neighbour) -> None:
        async with watched(paths, check(TRAFFIC_LIMIT="3M")) as report:
            big, small = program(tmp_path, "big"), program(tmp_path, "small")
            with running(small, TRANSFER, FOUR, str(100 * KIB), "0"):
                await looks()
                with running(big, TRANSFER, SIX, str(2 * MIB), "0") as first:
                    assert first.first_line.isdigit()
                    await looks()
                    assert report.alerts == []
                    with contextlib.ExitStack() as stack:
                        with end_of_connection(1500 * KIB):
                            short = running(sys.executable, TRANSFER, FOUR, str(1500 * KIB), "0", "short")
                            stack.enter_context(short)
                        await report.until(lambda: report.alerts)
            lines = report.alerts[0].details.description.splitlines()
            top = [line.partition(". ")[2] for line in lines if line[:1].isdigit() and ". " in line[:3]]
            assert re.match(
                rf"{re.escape(big)}: (1\.\d|2\.0)M sent", top[0]
            )  # the rest is not acknowledged yet
            other = os.path.realpath(sys.executable)  # where it was seen in time
            peer = f"connections with {FOUR}, port 9 that "
            ended = (f"{peer}ended before", f"{peer}no process seems to hold", other)
            assert [line for line in top[1:] if line.startswith(ended)], top
            assert [line for line in top[1:] if line.startswith(f"{small}: ")], top
            assert f"   pid: {first.first_line}" in lines

    in_network(scenario)


def test_own_sending_counts_and_is_shown_as_such(paths):
    async def scenario(neighbour: Neighbour) -> None:
        async with watched(paths, check()) as report:
            with socket.create_connection((FOUR, 9)) as own:
                own.sendall(b"%d 0\n" % (2 * MIB) + bytes(2 * MIB))
                # What is not acknowledged yet would count by the interface alone.
                assert own.recv(1) == b"\0"
                await report.until(lambda: report.alerts)
            text = report.alerts[0].details.description
            assert "this monitor itself: 2.0M; its own sending counts\n" in text
            assert "(this monitor itself): 2.0M sent" in text

    in_network(scenario)


def test_an_interface_that_comes_back_counts_on(paths):
    """
    It is unplugged and comes back with counters at 0, which is no step back and no step forward.

    The last bytes before it went count, and so do the first ones after it is back.
    """

    async def scenario(neighbour: Neighbour) -> None:
        one = check(TRAFFIC_LIMIT="1500K")
        async with watched(paths, one) as report:
            one.interval = 60  # only the kernel's news bring a look
            await transfer(FOUR, 800 * KIB)
            ip("link delete wwan0")
            await report.until(lambda: report.reason == "no interface wwan0")
            await looks()
            assert report.alerts == []
            neighbour.connect("wwan0")
            await report.until(lambda: report.reason == "")
            one.interval = 0.05
            await transfer(FOUR, 400 * KIB)
            await transfer(SIX, 100 * KIB)
            await looks()
            assert report.alerts == []
            await transfer(FOUR, 300 * KIB)
            ip("link delete wwan0")
            neighbour.connect("wwan0")
            await report.until(lambda: report.alerts)
            assert report.open == [NAME]

    in_network(scenario)


def test_it_is_over_while_the_interface_is_away(paths):
    async def scenario(neighbour: Neighbour) -> None:
        clock = MovableClock()
        async with watched(paths, check(), clock=clock) as report:
            await transfer(FOUR, 2 * MIB)
            await report.until(lambda: report.open == [NAME])
            ip("link delete wwan0")
            await report.until(lambda: report.reason == "no interface wwan0")
            assert report.open == [NAME]
            clock.booted = -3600  # seconds that have passed at once
            await report.until(lambda: report.open == [])
            await report.until(lambda: report.reason == "no interface wwan0")

    in_network(scenario)


def test_a_renamed_interface(paths):
    """By its name it is gone, and the reason says where it is; by a glob it takes its window along."""

    async def scenario(neighbour: Neighbour) -> None:
        async with (
            watched(paths, check()) as by_name,
            watched(paths, check(TRAFFIC_INTERFACE="w*")) as by_glob,
        ):
            await transfer(FOUR, 800 * KIB)
            await looks()
            ip("link set wwan0 down")
            ip("link set wwan0 name wan1")
            ip("link set wan1 up")
            await by_name.until(lambda: by_name.reason == "no interface wwan0: it is called wan1 now")
            await transfer(FOUR, 500 * KIB)
            await by_glob.until(lambda: by_glob.open == ["High data transfer on wan1"])
            assert by_name.alerts == []
            ip("link set wan1 down")
            ip("link set wan1 name wwan0")
            ip("link set wwan0 up")
            await by_glob.until(lambda: by_glob.open == [NAME])
            await by_name.until(lambda: by_name.reason == "")

    in_network(scenario)


def test_an_interface_that_was_elsewhere_brings_no_step(paths):
    """Its counters come along from the other network namespace."""

    async def scenario(neighbour: Neighbour) -> None:
        async with watched(paths, check(TRAFFIC_INTERFACE="far8")) as report:
            neighbour.connect("near8", 8)
            await transfer("192.0.8.2", 0, 3 * MIB)
            with running(sys.executable, "import time; print(1, flush=True); time.sleep(600)") as here:
                neighbour.run(f"ip link set far8 netns {here.pid}")
                await report.until(lambda: report.reason == "")
                await looks()
                assert report.alerts == []

    in_network(scenario)


def test_a_glob_is_a_finding_an_interface(paths):
    async def scenario(neighbour: Neighbour) -> None:
        async with watched(paths, check(TRAFFIC_INTERFACE="wwan*")) as report:
            neighbour.connect("wwan1", 3)
            await report.until(lambda: report.reason == "")
            await transfer("192.0.3.2", 2 * MIB)
            await report.until(lambda: report.open == ["High data transfer on wwan1"])
            await transfer(FOUR, 2 * MIB)
            await report.until(lambda: len(report.open) == 2)

    in_network(scenario)


def test_loopback_counts_by_its_name_alone(paths):
    async def scenario(neighbour: Neighbour) -> None:
        async with (
            watched(paths, check(TRAFFIC_INTERFACE="*")) as everything,
            watched(paths, check(TRAFFIC_INTERFACE="lo")) as loopback,
        ):
            await transfer_here(2 * MIB)
            await loopback.until(lambda: loopback.open == ["High data transfer on lo"])
            await looks()
            assert everything.alerts == []

    in_network(scenario)


async def transfer_here(size: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        taken, _ = server.accept()
        with taken:
            sending = asyncio.get_running_loop().run_in_executor(None, client.sendall, bytes(size))
            while size > 0:
                size -= len(taken.recv(65536))
            await sending


def test_the_default_route_moves_from_one_interface_to_another(paths):
    """What goes over an interface counts while the default route is there."""

    async def scenario(neighbour: Neighbour) -> None:
        neighbour.connect("eth0", 3)
        async with watched(paths, check(TRAFFIC_INTERFACE="default", TRAFFIC_LIMIT="1500K")) as report:
            assert report.reason == "there is no default route"
            await transfer("192.0.3.2", 2 * MIB)
            ip("route add default via 192.0.3.2 metric 100")
            await report.until(lambda: report.reason == "")
            await transfer("192.0.3.2", 1 * MIB)
            await transfer(FOUR, 2 * MIB)
            await looks()
            assert report.alerts == []
            ip("route add default via 192.0.2.2 metric 50")
            await looks()
            await transfer("192.0.3.2", 2 * MIB)
            await looks()
            assert report.alerts == []
            await transfer(FOUR, 2 * MIB)
            await report.until(lambda: report.open == [NAME])
            ip("route delete default via 192.0.2.2 metric 50")
            await looks()
            await transfer("192.0.3.2", 600 * KIB)
            await report.until(lambda: len(report.open) == 2)
            ip("route delete default")
            await report.until(lambda: report.reason == "there is no default route")
            ip(f"-6 route add default via {SIX}")
            await report.until(lambda: report.reason == "")

    in_network(scenario)


def test_the_window_outlives_the_daemon_and_a_clock_jump(paths):
    """What goes by while it does not run counts, too; within a boot the wall clock means nothing."""

    async def scenario(neighbour: Neighbour) -> None:
        clock, report = MovableClock(), JudgingReport()
        one = {"TRAFFIC_LIMIT": "1200K"}
        async with watched(paths, check(**one), report, clock=clock):
            await transfer(FOUR, 500 * KIB)
        clock.off = 86_400 * 365
        async with watched(paths, check(**one), report, clock=clock):
            await looks()
        await transfer(FOUR, 500 * KIB)
        clock.off = -86_400 * 365
        async with watched(paths, check(**one), report, clock=clock):
            await looks()
            assert report.alerts == []
            await transfer(FOUR, 300 * KIB)
            await report.until(lambda: report.open == [NAME])
        async with watched(paths, check(**one), report, clock=clock):
            await looks()
            assert len(report.alerts) == 1  # not told again

    in_network(scenario)


@pytest.mark.parametrize(("off", "counts"), [(60.0, True), (7200.0, False)])
def test_the_window_outlives_a_reboot(paths, off, counts):
    """The counters begin anew. How long the device was off is known by the wall clock."""

    async def scenario(neighbour: Neighbour) -> None:
        clock, report = MovableClock(), JudgingReport()
        async with watched(paths, check(TRAFFIC_LIMIT="1200K"), report, clock=clock):
            await transfer(FOUR, 800 * KIB)
        assert '"name":"wwan0"' in report.memory
        clock.reboot("second")
        clock.off = off
        ip("link delete wwan0")
        neighbour.connect("wwan0")
        await transfer(FOUR, 200 * KIB)  # before the daemon starts
        async with watched(paths, check(TRAFFIC_LIMIT="1200K"), report, clock=clock):
            await looks()
            assert report.alerts == []
            await transfer(FOUR, 300 * KIB)
            if counts:
                await report.until(lambda: report.open == [NAME])
            else:
                await looks()
                assert report.alerts == []

    in_network(scenario)


@pytest.mark.parametrize(
    ("cgroup", "own"),
    [
        ("/system.slice/mender-monitor.service", True),
        (
            "/system.slice/system-mender\\x2dmonitor\\x2dsender.slice/mender-monitor-sender@3-43-0.service",
            True,
        ),
        ("/system.slice/other.service", False),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/mender-monitor.service", False),
        ("", False),
    ],
)
def test_a_user_cannot_pass_for_the_monitor(cgroup, own):
    assert is_own_unit(cgroup) is own


def test_without_socket_diagnostics_the_limit_holds(paths, monkeypatch):
    """The kernel may be built without: then the alert names nobody, and the notes say why."""

    async def scenario(neighbour: Neighbour) -> None:
        def refuse(self: object) -> None:
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

        monkeypatch.setattr(TcpCounters, "__init__", refuse)
        async with watched(paths, check()) as report:
            await transfer(FOUR, 2 * MIB)
            await report.until(lambda: report.open == [NAME])
            assert "Protocol not supported" in report.notes["sockets"]

    in_network(scenario)


def test_a_memory_that_is_damaged_is_given_up(paths):
    async def scenario(neighbour: Neighbour) -> None:
        async with watched(paths, check(), JudgingReport('{"at": 3}')) as report:
            await transfer(FOUR, 2 * MIB)
            await report.until(lambda: report.open == [NAME])

    in_network(scenario)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"TRAFFIC_INTERFACE": " "}, "name an interface"),
        ({"TRAFFIC_LIMIT": "1X"}, "is not a size"),
        ({"TRAFFIC_DIRECTION": "up"}, "is not one of: tx rx both"),
        ({"TRAFFIC_INTERVAL": "2h"}, "is longer than TRAFFIC_WINDOW"),
    ],
)
def test_what_cannot_be_is_refused(values, reason):
    with pytest.raises(DefinitionError, match=reason):
        check(**values)
