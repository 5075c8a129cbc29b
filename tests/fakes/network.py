"""A network of a test's own, and programs that do in it what an attacker would."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mender_monitor_py.host.tcpcounters import TcpCounters

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def in_own_network(scenario: Callable[[], None]) -> None:
    """Run *scenario* in a thread that has a network namespace of its own, with loopback up. Needs root."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            scenario()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def program(folder: Path, name: str) -> str:
    """A copy of the Python interpreter under another name: an executable that is not expected."""
    path = folder / name
    shutil.copy(Path(sys.executable).resolve(), path)
    return str(path)


class Running(subprocess.Popen[str]):
    """A program of a test, and the line that it printed when it was there."""

    first_line = ""


@contextmanager
def running(executable: str, code: str, *arguments: str) -> Iterator[Running]:
    """*executable*, a Python, runs *code*; it is there when it has printed a line, and ended afterwards."""
    command = [executable, "-I", "-S", "-c", code, *arguments]
    process = Running(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        process.first_line = process.stdout.readline().strip()
        yield process
    finally:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


# Debian's, by their real paths: nc is a link to a link to one of them.
NETCAT, TRADITIONAL = "/usr/bin/nc.openbsd", "/usr/bin/nc.traditional"
_TABLES = [Path("/proc/thread-self/net", name) for name in ("tcp", "tcp6", "udp", "udp6")]


@contextmanager
def netcat(port: int, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """
    *command*, a netcat of whatever name, runs: it has *port*, of whatever protocol; ended afterwards.

    Another one may have the port of another family or protocol before.
    """

    def sockets() -> int:
        return sum(table.read_text().count(f":{port:04X} ") for table in _TABLES)

    before = sockets()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        while sockets() <= before:
            assert process.poll() is None, f"{command} has ended"
            time.sleep(0.01)  # the kernel tells nobody of a port
        yield process
    finally:
        process.kill()
        process.communicate()


# With "short" it closes its sockets, and goes on, at SIGUSR1.
LISTEN = """
import signal, socket, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
protocol, address, port, *options = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
keep = []
for _ in range(2 if "twice" in options else 1):
    s = socket.socket(family, kind)
    if "twice" in options:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, int(port)))
    if protocol == "tcp":
        s.listen()
    keep.append(s)
print("ready", flush=True)
if "short" in options:
    signal.sigwait({signal.SIGUSR1})
    s.close()
time.sleep(600)
"""


class Neighbour:
    """
    Another machine, in a network namespace of its own: a context manager within :func:`in_own_network`.

    It serves :data:`TRANSFER`'s protocol on port 9 of all its addresses.
    """

    def __init__(self) -> None:
        command = ["unshare", "--net", sys.executable, "-I", "-S", "-c", _SERVE]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.run("ip link set lo up")

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, command: str) -> str:
        """Run *command* on it."""
        return _run(f"nsenter --target={self._process.pid} --net {command}")

    def connect(self, name: str, net: int = 2, here: Callable[[str], str] | None = None) -> None:
        """
        A cable: the interface *name*, and addresses that end with 1 at this end and with 2 at the other.

        *here* runs ip(8) where this end is to be, :func:`ip` if it is not given.
        """
        here = here or ip
        ends = (here, name, 1), (lambda command: self.run(f"ip {command}"), f"far{net}", 2)
        here(f"link add {name} type veth peer name far{net} netns {self._process.pid}")
        for run, link, _ in ends:
            run(f"link set {link} up")
        for run, link, host in ends:
            while "state UP" not in run(f"link show {link}"):
                time.sleep(0.01)  # the kernel tells IPv6 of a carrier up to a second later
            run(f"address add 192.0.{net}.{host}/24 dev {link}")
            run(f"address add 2001:db8:{net}::{host}/64 dev {link} nodad")


def ip(command: str) -> str:
    """Run *command* of ip(8) here."""
    return _run(f"ip {command}")


def _run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def end_of_connection(sent: int) -> Iterator[None]:
    """
    In this block a connection that has *sent* so many bytes is closed; afterwards it has ended.

    The kernel has told so, at the same time, everybody in this network who listens.
    """
    with closing(TcpCounters()) as counters:
        yield
        while not any(one.counters.sent >= sent for one in counters.ended()):
            time.sleep(0.01)  # the kernel holds its news until they are read


# It forks, so that its parent is not the one who started it.
TRANSFER = """
import os, socket, sys, time
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
address, up, down = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def transfer(up, down):
    s = socket.create_connection((address, 9))
    s.sendall(b"%d %d\\n" % (up, down) + bytes(up))
    while down + 1 > 0:
        down -= len(s.recv(65536))
    return s
if "short" in sys.argv:
    transfer(up, down).close()
else:
    keep = transfer(up, down)
print(os.getpid(), flush=True)
time.sleep(600)
"""

_SERVE = """
import socket, threading
def serve(s):
    with s, s.makefile("rb") as file:
        up, down = map(int, file.readline().split())
        while up > 0:
            up -= len(file.read1(min(up, 65536)))
        s.sendall(bytes(down + 1))
        file.read(1)
server = socket.create_server(("::", 9), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
