"""Netlink's answers about sockets, whatever their length."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.host.sockdiag import Socket, parse


def message(port, inode, attributes=b"", *, family=socket.AF_INET, address=b"\0" * 16, interface=0):
    body = struct.pack(
        "=BBBBHH16s16sIIIIIIII",
        *(family, 10, 0, 0, socket.htons(port), 0, address, b"\0" * 16, interface),
        *(0, 0, 0, 0, 0, 0, inode),
    )
    length = 16 + len(body) + len(attributes)
    return struct.pack("=IHHII", length, 20, 2, 1, 7) + body + attributes + bytes(-length % 4)


sockets = st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(max_size=9))


@given(st.lists(sockets, max_size=9))
def test_every_message_is_read(expected):
    """The attributes behind a socket make its message longer or shorter than the next one's."""
    data = b"".join(message(*fields) for fields in expected)
    assert [(found.port, found.inode) for found in parse(data)] == [fields[:2] for fields in expected]


@given(
    st.binary(max_size=300)
    | st.lists(sockets, max_size=3).map(lambda f: b"".join(message(*x) for x in f)[:-9])
)
def test_damaged_messages_end_the_list(data):
    assert len(list(parse(data))) <= len(data) // 88


@pytest.mark.parametrize(
    ("family", "address", "interface", "text", "loopback"),
    [
        (socket.AF_INET, bytes(4), 0, "0.0.0.0", False),
        (socket.AF_INET, bytes(4), 1, "0.0.0.0", True),
        (socket.AF_INET, bytes([127, 9, 8, 7]), 0, "127.9.8.7", True),
        (socket.AF_INET, bytes([10, 0, 0, 127]), 2, "10.0.0.127", False),
        (socket.AF_INET6, bytes(16), 0, "::", False),
        (socket.AF_INET6, bytes(15) + b"\1", 0, "::1", True),
        (socket.AF_INET6, bytes(10) + b"\xff\xff\x7f\0\0\1", 0, "::ffff:127.0.0.1", True),
        (socket.AF_INET6, bytes(10) + b"\xff\xff\x0a\0\0\1", 0, "::ffff:10.0.0.1", False),
        (socket.AF_INET6, bytes([127]) + bytes(15), 0, "7f00::", False),
    ],
)
def test_addresses(family, address, interface, text, loopback):
    (found,) = parse(message(1, 2, family=family, address=address.ljust(16, b"\0"), interface=interface))
    assert (found.address, found.loopback) == (text, loopback)
    assert isinstance(found, Socket)
