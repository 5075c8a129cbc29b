"""
Netlink messages and their attributes, as bytes; <linux/netlink.h>.

Pure. What is not whole is left out: whatever the bytes, nothing here raises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_TYPE = 0x3FFF  # NLA_TYPE_MASK


class Message(NamedTuple):
    """One netlink message without its header."""

    kind: int
    flags: int
    sequence: int
    body: memoryview


def messages(data: bytes) -> Iterator[Message]:
    """The messages of a datagram, as far as it is whole."""
    view, offset = memoryview(data), 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= len(data) - offset:
            return
        yield Message(kind, flags, sequence, view[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3  # NLMSG_ALIGN


def attributes(body: memoryview, offset: int) -> Iterator[tuple[int, memoryview]]:
    """The attributes of a message behind the first *offset* bytes of its body, by type."""
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if not _ATTRIBUTE.size <= length <= len(body) - offset:
            return
        yield kind & _TYPE, body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3  # NLA_ALIGN


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a request."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)
