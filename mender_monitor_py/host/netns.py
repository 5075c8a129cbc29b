"""
Network namespaces of the machine; see network_namespaces(7).

A socket belongs for ever to the namespace that its thread was in when it was made, and keeps it alive: so the
sockets are made, used and closed in one look, by a thread that goes back to where it came from.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mender_monitor_py.host.procfs import Procfs

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def other_namespaces(procfs: Procfs, named: Path = Path("/run/netns")) -> dict[int, tuple[str, str]]:
    """
    The namespaces that a process is in, or that have a name, without our own.

    By inode: a path that leads to it, and what to call it.
    """
    found: dict[int, tuple[str, str]] = {}
    for name in sorted(os.listdir(named)) if named.is_dir() else []:  # noqa: PTH208
        _add(found, str(named / name), f"netns {name}")
    for pid in sorted(procfs.pids()):
        _add(found, f"{procfs.path}/{pid}/ns/net", "")
    found.pop(os.stat(_OWN).st_ino, None)  # noqa: PTH116
    return found


def in_namespaces(paths: Mapping[int, str], look: Callable[[], T]) -> dict[int, T]:
    """
    What *look* gives in each of the namespaces *paths*; one that has gone is left out.

    Raises PermissionError without CAP_SYS_ADMIN, and what *look* raises.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="netns") as thread:
        return thread.submit(_visit, paths, look).result()


def _visit(paths: Mapping[int, str], look: Callable[[], T]) -> dict[int, T]:
    found: dict[int, T] = {}
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for inode, path in paths.items():
            try:
                there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(there).st_ino == inode:
                    _enter(there)
                    found[inode] = look()
            finally:
                os.close(there)
        _enter(own)
    finally:
        os.close(own)
    return found


def _add(found: dict[int, tuple[str, str]], path: str, name: str) -> None:
    try:
        inode = os.stat(path).st_ino  # noqa: PTH116
    except OSError:
        return
    found.setdefault(inode, (path, name or f"net:[{inode}]"))


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
