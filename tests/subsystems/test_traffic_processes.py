"""Connections that end while they are counted: the kernel tells of an end a moment after it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.socketowners import find_holders
from mender_monitor_py.host.tcpcounters import Connection, TcpCounters
from mender_monitor_py.subsystems import trafficprocesses
from mender_monitor_py.subsystems.trafficprocesses import Connections
from mender_monitor_py.trafficshares import Shares
from tests.fakes.network import Neighbour, end_of_connection, in_own_network

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
HERE, THERE = "192.0.2.1", "192.0.2.2"
WWAN0 = 7  # whatever number: it is the one of HERE
ADDRESSES = {socket.inet_aton(HERE): WWAN0}
SIZE = 200_000


class Late(TcpCounters):
    """The kernel's news of ends arrive when the test lets them."""

    held = True

    def ended(self) -> list[Connection]:
        return [] if self.held else super().ended()


class Device:
    """What one interface's connections transfer, with the looks at it, a second after another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trafficprocesses, "TcpCounters", Late)
        self.connections = Connections(Procfs(), least=1024)
        self.shares = Shares(3600, 1)
        self._now = 0.0
        self.look()

    def look(self) -> dict[str, int]:
        """By whom how many bytes were sent."""
        self._now += 1
        self.connections.look(self._now, ADDRESSES, {WWAN0: self.shares}, living=True)
        return {share.who.label: share.sum.sent for share in self.shares.look(self._now)}

    def let_the_news_in(self) -> None:
        tcp = self.connections._tcp
        assert isinstance(tcp, Late)
        tcp.held = False


def transferred() -> socket.socket:
    """A connection of this process that has sent its bytes."""
    connection = socket.create_connection((THERE, 9))
    connection.sendall(b"%d 0\n" % SIZE + bytes(SIZE))
    assert connection.recv(1) == b"\0"  # it is all there
    return connection


def in_network(scenario: Callable[[], None]) -> None:
    """Run *scenario* in a network of its own, with a neighbour behind wwan0."""

    def run() -> None:
        with Neighbour() as neighbour:
            neighbour.connect("wwan0")
            scenario()

    in_own_network(run)


def test_what_ends_while_its_process_is_looked_for_counts_at_once_and_once(monkeypatch):
    """An alert of this moment has it, although the kernel has not told its end yet."""

    def scenario() -> None:
        device = Device(monkeypatch)
        connection = transferred()

        def ends_meanwhile(procfs, inodes):
            with end_of_connection(SIZE):
                connection.close()
            return find_holders(procfs, inodes)

        with monkeypatch.context() as patch:
            patch.setattr(trafficprocesses, "find_holders", ends_meanwhile)
            found = device.look()
        name = f"connections with {THERE}, port 9 that ended before their process was seen"
        sent = found[name]
        assert found == {name: sent}
        assert SIZE < sent < SIZE + 100
        device.let_the_news_in()
        assert device.look()[name] - sent <= 1  # the FIN
        device.connections.close()

    in_network(scenario)


def test_an_end_that_is_told_late_is_not_counted_again(monkeypatch):
    def scenario() -> None:
        device = Device(monkeypatch)
        connection = transferred()
        (name,) = first = device.look()
        assert "ended" not in name
        with end_of_connection(SIZE):
            connection.close()
        assert device.look() == first
        device.let_the_news_in()
        (again,) = now = device.look()
        assert again == name
        assert now[name] - first[name] <= 1  # the FIN
        device.connections.close()

    in_network(scenario)


def test_what_ended_and_is_never_told_is_forgotten(monkeypatch):
    """The kernel may have lost its news."""

    def scenario() -> None:
        device = Device(monkeypatch)
        connection = transferred()
        device.look()
        with end_of_connection(SIZE):
            connection.close()
        device.look()
        assert len(device.connections._followed) == 1
        device.look()
        assert device.connections._followed == {}
        device.connections.close()

    in_network(scenario)
