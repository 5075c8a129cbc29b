"""
Open ports as /proc/net has them: a second word, beside that of sock_diag; see proc(5).

Whoever hides a port has to lie at both places. The kernel lists what listens before what is connected.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from sys import byteorder

from mender_monitor_py.host.sockdiag import TCP_CLOSE, TCP_LISTEN, Socket

_NET = Path("/proc/thread-self/net")  # of the namespace that the reading thread is in
_WANTED = {"tcp": TCP_LISTEN, "udp": TCP_CLOSE}


def bound_sockets(protocol: str) -> Iterator[Socket]:
    """As :meth:`SockDiag.sockets` has them, without their interfaces. Raises OSError."""
    for family, name in ((socket.AF_INET, protocol), (socket.AF_INET6, f"{protocol}6")):
        try:
            with (_NET / name).open("rb") as lines:
                yield from parse(lines, family, _WANTED[protocol], only_first=protocol == "tcp")
        except FileNotFoundError:  # IPv6 may be left out of the kernel
            if family == socket.AF_INET:
                raise


def parse(lines: Iterable[bytes], family: int, state: int, *, only_first: bool) -> Iterator[Socket]:
    """The sockets in *state*. *only_first*: no more after the first one that is in another."""
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or b":" not in fields[1]:
            continue  # the heading
        if int(fields[3], 16) != state:
            if only_first:
                return
            continue
        address, _, port = fields[1].partition(b":")
        yield Socket(family, state, bytes.fromhex(port.decode()), _bytes(address), 0, int(fields[9]))


def _bytes(address: bytes) -> bytes:
    """From words of 32 bits in this machine's order, as %08X shows them, to 16 bytes in network order."""
    words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
    return b"".join(word.to_bytes(4, byteorder) for word in words).ljust(16, b"\0")
