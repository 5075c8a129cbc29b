"""A network of a test's own, and programs that do in it what an attacker would."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


LISTEN = """
import socket, sys, time
protocol, address, port, *options = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
keep = []
for _ in range(2 if "twice" in options else 1):
    s = socket.socket(family, kind)
    if "twice" in options:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if "only6" in options:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, int(port)))
    if protocol == "tcp":
        s.listen()
    keep.append(s)
print("ready", flush=True)
if "short" in options:
    time.sleep(1.5)
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

    def run(self, command: str) -> None:
        """Run *command* on it."""
        subprocess.run(["nsenter", f"--target={self._process.pid}", "--net", *command.split()], check=True)

    def connect(self, name: str, net: int = 2) -> None:
        """A cable: the interface *name* here, and addresses ending with 1 here and 2 there."""
        ip(f"link add {name} type veth peer name far{net} netns {self._process.pid}")
        for run, link, host in ((ip, name, 1), (lambda c: self.run(f"ip {c}"), f"far{net}", 2)):
            run(f"address add 192.0.{net}.{host}/24 dev {link}")
            run(f"address add 2001:db8:{net}::{host}/64 dev {link} nodad")
            run(f"link set {link} up")


def ip(command: str) -> None:
    """Run *command* of ip(8) here."""
    subprocess.run(["ip", *command.split()], check=True)


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
