"""Ports are opened for real, in network namespaces of the test's own."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py.host import openports, sockdiag
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.procnet import bound_sockets
from mender_monitor_py.host.replaced import Replaced
from mender_monitor_py.host.sockdiag import SockDiag
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.ports import PortsCheck
from tests.fakes.judging import JudgingReport
from tests.fakes.network import LISTEN, NETCAT, TRADITIONAL, in_own_network, netcat, program, running
from tests.fakes.watched import elapse, runs_on
from tests.fakes.watched import looked as watched

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
CHECK = CheckId("ports", "external")
FAMILIES = (socket.AF_INET, socket.AF_INET6)


@pytest.fixture
def attacker(tmp_path):
    return program(tmp_path, "nc")


def check(**values: str) -> PortsCheck:
    made = PortsCheck(Definition(CHECK, {"PORTS_ALLOW": "tcp 1 none /none", **values}), Settings())
    made._interval = 0.05
    return made


def in_network(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_own_network(lambda: asyncio.run(scenario()))


async def looks(report: JudgingReport) -> None:
    """A few looks pass."""
    await elapse(0.4)


async def one_finding(
    paths,
    attack: AbstractContextManager[subprocess.Popen[Any]],
    subject: str,
    address: str,
    *,
    closes: bool = False,
) -> str:
    """
    *attack* is one finding, with who did it, and one OK when it ends; the finding's description.

    It ends when its process does, or *closes* the port before that, when it is told to.
    """
    port, _, executable = subject.partition(" ")
    async with watched(paths, check()) as report:
        with attack as process:
            await report.until(lambda: report.alerts)
            alert = report.alerts[0]
            assert (alert.level, alert.name) == (CRITICAL, f"Unexpected open port {port}")
            assert alert.subject.name == subject
            text = str(alert.details.description)
            assert f"open on {address}\n" in text
            assert f"pid: {process.pid}\nexecutable: {executable}\n" in text
            assert "user: root" in text
            assert f"parent: {os.getpid()} " in text
            if closes:
                process.send_signal(signal.SIGUSR1)
                await report.until(lambda: len(report.alerts) > 1)
        await report.until(lambda: len(report.alerts) > 1)
        assert (report.alerts[1].level, report.alerts[1].subject.status) == (OK, "closed")
        await looks(report)
        assert len(report.alerts) == 2
    return text


@pytest.mark.parametrize(
    ("command", "port", "address", "executable"),
    [
        ("nc -l 0.0.0.0 4441", "tcp/4441", "0.0.0.0", NETCAT),
        ("nc -4 -l -k 4442", "tcp/4442", "0.0.0.0", NETCAT),
        ("nc -l :: 4443", "tcp/4443", "[::]", NETCAT),
        ("nc -6 -l 4444", "tcp/4444", "[::]", NETCAT),
        ("nc -l 40000", "tcp/40000", "0.0.0.0", NETCAT),
        ("nc -u -l 0.0.0.0 514", "udp/514", "0.0.0.0", NETCAT),
        ("nc -u -k -l :: 515", "udp/515", "[::]", NETCAT),
        ("nc.traditional -l -p 4445", "tcp/4445", "0.0.0.0", TRADITIONAL),
        ("nc.traditional -u -l -p 516", "udp/516", "0.0.0.0", TRADITIONAL),
    ],
)
def test_netcat_is_one_finding_with_who_did_it_and_an_ok_when_it_ends(
    paths, command, port, address, executable
):
    """
    On IPv4, and on both families by one socket. The executable is what the link nc leads to.
    """

    async def scenario():
        attack = netcat(int(port[4:]), *command.split())
        text = await one_finding(paths, attack, f"{port} {executable}", address)
        assert f"command line: {command}\n" in text

    in_network(scenario)


def test_netcats_on_one_family_each_are_one_finding(paths):
    """
    One on IPv6 alone, then another one beside it on the same port of IPv4.
    """

    async def scenario():
        Path("/proc/sys/net/ipv6/bindv6only").write_text("1\n")  # of this network alone
        async with watched(paths, check()) as report:
            with netcat(4444, "nc", "-6", "-l", "4444"):
                await report.until(lambda: report.alerts)
                assert report.alerts[0].subject.name == f"tcp/4444 {NETCAT}"
                assert "open on [::]\n" in report.alerts[0].details.description
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", 4444))
                with netcat(4444, "nc", "-4", "-l", "4444"):
                    await looks(report)
                    socket.create_connection(("127.0.0.1", 4444)).close()
                await looks(report)
                assert len(report.alerts) == 1
            await report.until(lambda: not report.open)

    in_network(scenario)


@pytest.mark.parametrize(
    ("arguments", "port", "address"),
    [
        (("tcp", "0.0.0.0", "4447", "twice"), "tcp/4447", "0.0.0.0"),
        (("udp", "::", "4448", "twice"), "udp/4448", "[::]"),
        (("tcp", "0.0.0.0", "4449", "short"), "tcp/4449", "0.0.0.0"),
    ],
)
def test_what_netcat_cannot_is_one_finding_too(paths, attacker, arguments, port, address):
    """
    Two sockets by SO_REUSEPORT, and one that is closed while its process goes on.
    """

    async def scenario():
        attack, subject = running(attacker, LISTEN, *arguments), f"{port} {attacker}"
        await one_finding(paths, attack, subject, address, closes="short" in arguments)

    in_network(scenario)


def test_what_is_no_open_port_is_no_finding(paths):
    """
    Loopback alone, and UDP as clients have it: connected, or on a port that the kernel chose from theirs.
    """

    async def scenario():
        async with watched(paths, check()) as report:
            with (
                netcat(4444, "nc", "-l", "127.0.0.1", "4444"),
                netcat(4445, "nc", "-l", "::1", "4445"),
                netcat(4446, "nc.traditional", "-l", "-p", "4446", "-s", "127.0.0.1"),
                netcat(517, "nc", "-u", "-l", "127.0.0.1", "517"),
                netcat(600, "nc", "-u", "-p", "600", "127.0.0.1", "9"),
                netcat(40000, "nc", "-u", "-l", "40000"),
            ):
                await looks(report)
                assert report.alerts == []
            async with watched(paths, check(PORTS_SCOPE="all", PORTS_PROTOCOLS="tcp")) as all_scope:
                with (
                    netcat(4445, "nc", "-l", "127.0.0.1", "4445"),
                    netcat(514, "nc", "-u", "-l", "514"),
                ):
                    await all_scope.until(lambda: all_scope.alerts)
                    await looks(all_scope)
                    assert all_scope.open == ["Unexpected open port tcp/4445"]

    in_network(scenario)


def test_a_listed_port_is_a_finding_when_another_executable_holds_it(paths, attacker, tmp_path):
    async def scenario():
        sshd = program(tmp_path, "sshd")
        async with watched(paths, check(PORTS_ALLOW=f"tcp 22 sshd {sshd} udp 40000 * {sshd}")) as report:
            with running(sshd, LISTEN, "tcp", "0.0.0.0", "22"):
                await looks(report)
                assert report.alerts == []
            with running(attacker, LISTEN, "tcp", "0.0.0.0", "22"):
                await report.until(lambda: report.alerts)
                assert report.alerts[0].subject.name == f"tcp/22 {attacker}"
            await report.until(lambda: not report.open)
            with running(attacker, LISTEN, "udp", "0.0.0.0", "40000"):  # ephemeral, but listed
                await report.until(lambda: report.open)

    in_network(scenario)


def test_processes_that_share_a_port_are_one_finding(paths, attacker):
    """SO_REUSEPORT: the same program twice, each with a socket of its own."""

    async def scenario():
        async with watched(paths, check()) as report:
            with running(attacker, LISTEN, "tcp", "0.0.0.0", "4444", "twice") as first:
                await report.until(lambda: report.alerts)
                with running(attacker, LISTEN, "tcp", "0.0.0.0", "4444", "twice"):
                    await looks(report)
                    os.killpg(first.pid, signal.SIGKILL)
                    await looks(report)
                    assert [alert.level for alert in report.alerts] == [CRITICAL]
            await report.until(lambda: not report.open)

    in_network(scenario)


FORK = """
import os, socket, time
s = socket.socket(); s.bind(("0.0.0.0", 4444)); s.listen()
if os.fork():
    time.sleep(0.8)
    os._exit(0)
print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_a_forked_worker_holds_the_port_after_its_parent_ended(paths, attacker):
    async def scenario():
        async with watched(paths, check()) as report:
            with running(attacker, FORK) as process:
                await report.until(lambda: report.alerts)
                await asyncio.to_thread(process.wait)
                await looks(report)
                assert [alert.level for alert in report.alerts] == [CRITICAL]  # the same executable: no news
                os.kill(int(process.first_line), signal.SIGKILL)
                await report.until(lambda: not report.open)

    in_network(scenario)


def test_an_executable_that_was_deleted_after_its_start(paths, tmp_path):
    async def scenario():
        sshd = program(tmp_path, "sshd")
        async with watched(paths, check(PORTS_ALLOW=f"tcp 22 sshd {sshd}")) as report:
            with running(sshd, LISTEN, "tcp", "0.0.0.0", "22"):
                await looks(report)
                program(tmp_path, "sshd.new")
                (tmp_path / "sshd.new").rename(sshd)  # an upgrade
                await looks(report)
                assert report.alerts == []
                (tmp_path / "sshd").unlink()
                await report.until(lambda: report.alerts)
                assert report.alerts[0].subject.name == f"tcp/22 {sshd} (deleted)"

    in_network(scenario)


def test_an_executable_that_a_deployment_removed(paths, tmp_path):
    """
    The port is still that of the listed one. Nothing that a deployment brought makes it an expected one.
    """

    async def scenario():
        sshd, replaced = program(tmp_path, "sshd"), Replaced(Procfs())
        one = check(PORTS_ALLOW=f"tcp 22 sshd {sshd}")
        with running(sshd, LISTEN, "tcp", "0.0.0.0", "22") as process:
            host = Host(paths, Clock())
            (port,) = await one.survey(host)
            assert one.file_of(host, port) == sshd
            Path(sshd).unlink()
            async with watched(paths, one, replaced=replaced) as report:
                await report.until(lambda: report.open)
                runs_on(replaced, process.pid)
                await report.until(lambda: not report.open)
            program(tmp_path, "sshd")
            (port,) = await one.survey(host)
            assert port.holder is not None and port.holder.executable == sshd
            assert one.file_of(host, port) == ""

    in_network(scenario)


def test_a_listener_in_another_network_namespace(paths, attacker):
    async def scenario():
        before = Path("/proc/thread-self/ns/net").stat().st_ino
        command = ["unshare", "--net", attacker, "-I", "-S", "-c", LISTEN, "tcp", "0.0.0.0", "4444"]
        async with (
            watched(paths, check()) as own,
            watched(paths, check(PORTS_NAMESPACES="all")) as everywhere,
        ):

            def told():
                # Other namespaces of this machine may have such a port, too.
                found = [one for one in everywhere.alerts if attacker in one.subject.name]
                return [(one.level, one.name) for one in found]

            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            try:
                await everywhere.until(told)
                await looks(everywhere)
                assert told() == [(CRITICAL, "Unexpected open port tcp/4444")]
                subjects = [alert.subject.name for alert in everywhere.alerts]
                assert any(name.startswith(f"tcp/4444 {attacker} in net:[") for name in subjects)
                assert own.alerts == []
            finally:
                process.kill()
                process.communicate()
            await everywhere.until(lambda: told()[-1][0] == OK)
        # the thread that looked is back: what it opens now is here
        assert Path("/proc/thread-self/ns/net").stat().st_ino == before

    in_network(scenario)


def test_a_port_that_no_process_seems_to_hold(paths):
    """The descriptor is on its way in a Unix socket: no process has it."""

    async def scenario():
        left, right = socket.socketpair()
        with left, right:
            listener = socket.create_server(("0.0.0.0", 4444))
            socket.send_fds(left, [b"x"], [listener.fileno()])
            listener.close()
            async with watched(paths, check()) as report:
                await report.until(lambda: report.alerts)
                assert report.alerts[0].subject.name == "tcp/4444 (no process found)"
                assert "hidden process" in report.alerts[0].details.description
            _, fds, _, _ = socket.recv_fds(right, 1, 1)
            for fd in fds:
                os.close(fd)

    in_network(scenario)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_port_that_hides_is_a_finding_even_when_it_is_listed(
    paths, attacker, monkeypatch, protocol, address
):
    """As with a rootkit that filters what sock_diag answers, and leaves /proc/net alone."""
    told = SockDiag.sockets
    monkeypatch.setattr(openports, "HIDDEN_S", 0.2)

    async def scenario():
        async with watched(paths, check(PORTS_ALLOW=f"{protocol} 444 * *, {protocol} 445 * *")) as report:
            with (
                running(attacker, LISTEN, protocol, address, "444") as process,
                running(attacker, LISTEN, protocol, address, "445"),
            ):
                await looks(report)
                assert report.alerts == []
                monkeypatch.setattr(
                    SockDiag, "sockets", lambda self, which: [s for s in told(self, which) if s.port != 444]
                )
                await report.until(lambda: report.alerts)
                await looks(report)
                assert report.open == [f"Unexpected open port {protocol}/444"]
                text = report.alerts[0].details.description
                assert "it hides" in text
                assert f"pid: {process.pid}\n" in text
                monkeypatch.setattr(SockDiag, "sockets", told)
                await report.until(lambda: not report.open)  # it does not hide any more, and is listed
            await looks(report)
            assert len(report.alerts) == 2

    in_network(scenario)


def test_two_words_on_the_same_sockets(attacker):
    """/proc/net has what sock_diag has, whatever the addresses are."""

    async def scenario():
        with (
            running(attacker, LISTEN, "tcp", "127.0.0.1", "4444"),
            running(attacker, LISTEN, "tcp", "::1", "4444", "twice"),
            running(attacker, LISTEN, "udp", "::", "600"),
            running(attacker, LISTEN, "udp", "127.1.2.3", "601"),
            socket.create_connection(("127.0.0.1", 4444)),
        ):
            diag = SockDiag()
            for protocol in ("tcp", "udp"):
                found = {one._replace(interface=0) for one in diag.sockets(protocol)}
                assert found == set(bound_sockets(protocol))
                assert len(found) == (3 if protocol == "tcp" else 2)
            diag.close()

    in_network(scenario)


def test_who_cannot_look_does_not_know(paths, attacker, monkeypatch):
    """Without the right to see other users' descriptors the check is unknown, says why, and recovers."""

    async def scenario():
        with running(attacker, LISTEN, "tcp", "0.0.0.0", "4444"), monkeypatch.context() as patch:

            def denied(self, pid):
                raise PermissionError

            patch.setattr(Procfs, "descriptors", denied)
            patch.setattr(Procfs, "sees_all", lambda self: False)
            async with watched(paths, check()) as report:
                assert report.reason == "not permitted to see who holds tcp/4444: CAP_SYS_PTRACE"
                assert report.alerts == []
                patch.undo()
                await report.until(lambda: report.alerts)
                assert report.reason == ""

    in_network(scenario)


def test_without_any_list_it_is_unknown_until_there_is_one(paths, attacker):
    async def scenario():
        one = check(PORTS_ALLOW="")
        one._interval = 600  # only the list's appearance wakes it
        with running(attacker, LISTEN, "tcp", "0.0.0.0", "4444"):
            async with watched(paths, one) as report:
                assert report.reason == "no baseline: run monitorctl baseline learn ports external"
                paths.baseline_d.mkdir(parents=True)
                path = paths.baseline_d / "ports_external.list"
                path.write_text("tcp 22\ntcp x\n")
                await report.until(lambda: report.open == ["Unexpected open port tcp/4444"])
                assert "ports_external.list:2: 'x' is not a port" in report.notes["baseline"]
                path.with_suffix(".new").write_text(f"tcp 4444 * {attacker}\n")
                path.with_suffix(".new").rename(path)
                await report.until(lambda: not report.open)
                assert report.notes["baseline"] == ""
                path.write_text("tcp 22\n")
                path.chmod(0o666)
                await report.until(lambda: "another user than root" in report.reason)

    in_network(scenario)


def test_what_is_learned_is_expected(paths, attacker):
    async def scenario():
        host = Host(paths, Clock())
        with (
            running(attacker, LISTEN, "tcp", "::", "4444", "twice"),
            running(attacker, LISTEN, "udp", "0.0.0.0", "53"),
        ):
            rows = sorted(port.row for port in await check(PORTS_ALLOW="").survey(host))
            assert rows == [f"tcp 4444 nc {attacker}", f"udp 53 nc {attacker}"]
            async with watched(paths, check(PORTS_ALLOW="\n".join(rows))) as report:
                await looks(report)
                assert report.alerts == []

    in_network(scenario)


MANY = """
import socket, time
keep = [socket.create_server(("0.0.0.0", port)) for port in range(2000, 2050)]
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "bound", [(openports, "MAX_LISTENERS"), (sockdiag, "MAX_SOCKETS")], ids=lambda b: b[1]
)
@pytest.mark.parametrize("allowed", ["tcp 1 none /none", "tcp 2000-2049"])
def test_more_ports_than_are_looked_at(paths, attacker, monkeypatch, bound, allowed):
    """Anybody may open thousands: they fill no memory, the status says so, and none of them hides."""
    monkeypatch.setattr(*bound, 20)
    monkeypatch.setattr(openports, "HIDDEN_S", 0.1)

    async def scenario():
        one = check(PORTS_ALLOW=allowed, PORTS_MAX_ALERTS="5")
        async with watched(paths, one) as report:
            with running(attacker, MANY):
                await report.until(lambda: report.notes.get("many"))
                await looks(report)
                if "none" in allowed:
                    assert len(report.open) == 6
                    text = report.last("Many unexpected open ports").details.description
                    assert text.startswith("15 more findings at once")
                else:
                    assert report.alerts == []
            await report.until(lambda: not report.open and not report.notes["many"])

    in_network(scenario)


def test_a_program_of_any_name_is_shown_escaped_and_can_be_listed(paths, tmp_path):
    """Its file's name, and the one that it gives itself, are the attacker's to choose."""
    odd = program(tmp_path, "a b\n\x1b[31m#,*\udcff")

    async def scenario():
        with running(odd, LISTEN, "tcp", "0.0.0.0", "4444"):
            (row,) = [port.row for port in await check(PORTS_ALLOW="").survey(Host(paths, Clock()))]
            assert row.isprintable()
            assert len(row.split()) == 4
            async with watched(paths, check(PORTS_ALLOW=row)) as listed, watched(paths, check()) as report:
                await report.until(lambda: report.alerts)
                (alert,) = report.alerts
                assert alert.subject.name.isprintable()
                assert all(line.isprintable() for line in alert.details.description.splitlines())
                assert row in alert.details.description
                await looks(report)
                assert listed.alerts == []

    in_network(scenario)


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, max(hard, 20_000)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_established_connections_cost_nothing(many_files):
    """The kernel leaves 5,000 of them out of its answer: that has the bytes of one listener."""

    async def scenario():
        diag = SockDiag()
        with socket.create_server(("127.0.0.1", 7), backlog=100) as server:
            before = [diag._dump("tcp", family) for family in FAMILIES]
            pairs = []
            for _ in range(5000):
                client = socket.create_connection(("127.0.0.1", 7))
                pairs += [client, server.accept()[0]]
            after = [diag._dump("tcp", family) for family in FAMILIES]
            assert all(now is then for now, then in zip(after, before, strict=True))  # not even read again
            assert len(diag.sockets("tcp")) == 1
            for connection in pairs:
                connection.close()
        diag.close()

    in_network(scenario)
