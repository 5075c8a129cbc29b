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
