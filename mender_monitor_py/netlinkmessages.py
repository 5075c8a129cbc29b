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
NLMSG_ERROR, NLMSG_DONE = 2, 3
_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_RESULT = struct.Struct("=i")
_END_SIZE = HEADER.size + _RESULT.size


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


class Part(NamedTuple):
    """
    A datagram that answers the request *sequence*.

    *interrupted*: the table changed while the kernel went through it. *error*: the errno that the answer ends
    with, 0 for success; None: more is to come.
    """

    sequence: int = 0
    interrupted: bool = False
    error: int | None = None


def part(data: bytes) -> Part:
    """What a datagram is of an answer, as far as it is whole."""
    view, offset, sequence, interrupted = memoryview(data), 0, 0, False
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= len(data) - offset:
            break
        interrupted |= bool(flags & _DUMP_INTERRUPTED)
        if kind in (NLMSG_ERROR, NLMSG_DONE):
            error = -_RESULT.unpack_from(data, offset + HEADER.size)[0] if length >= _END_SIZE else 0
            return Part(sequence, interrupted, max(error, 0))
        size = (length + 3) & ~3
        offset += size * alike(view[offset:], size)
    return Part(sequence, interrupted)


def alike(view: memoryview, size: int) -> int:
    """How many messages *view* begins with that have one length (padded: *size*), type and flags."""
    count = len(view) // size
    if count < 2:
        return 1
    words = view[: count * size].cast("I")
    lengths, kinds = words[:: size // 4].tolist(), words[1 :: size // 4].tolist()
    if lengths.count(lengths[0]) == kinds.count(kinds[0]) == count:
        return count
    heads = zip(lengths, kinds, strict=True)
    first = next(heads)
    return next(at for at, head in enumerate(heads, 1) if head != first)


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
