"""Netlink's messages and attributes, whatever comes."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.host.tcpcounters import parse
from mender_monitor_py.netlinkmessages import attributes, messages, part
from mender_monitor_py.trafficwindow import Bytes

bodies = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=60)), max_size=9)


def message(kind: int, body: bytes) -> bytes:
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, 2, 1, 0) + body + bytes(-length % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@given(bodies)
def test_every_message_of_a_datagram_is_seen(wanted):
    found = list(messages(b"".join(message(*one) for one in wanted)))
    assert [(one.kind, bytes(one.body)) for one in found] == wanted


@given(bodies)
def test_every_attribute_is_seen(wanted):
    data = b"1234" + b"".join(attribute(kind, value) for kind, value in wanted)
    assert [(kind, bytes(value)) for kind, value in attributes(memoryview(data), 4)] == wanted


@given(st.binary(max_size=300) | bodies.map(lambda found: b"".join(message(*one) for one in found)[:-3]))
def test_any_datagram_is_survived(data):
    found = list(messages(data))
    assert len(found) <= len(data) // 16
    for one in found:
        assert len(list(attributes(one.body, 0))) <= len(one.body) // 4
    assert list(parse(found)) == []


heads = st.tuples(
    st.sampled_from([2, 3, 16, 16, 16]),
    st.sampled_from([2, 2, 0x12]),
    st.sampled_from([b"1234", b"", b"1" * 9]),
)


@given(st.lists(heads, max_size=9), st.sampled_from([0, 0, 3]))
def test_the_end_of_an_answer_is_found_wherever_it_is(wanted, cut):
    data = b"".join(
        struct.pack("=IHHII", 16 + len(body), kind, flags, 7, 0) + body + bytes(-len(body) % 4)
        for kind, flags, body in wanted
    )
    data = data[: len(data) - cut]
    found = list(messages(data))
    ends = [at for at, one in enumerate(found) if one.kind in (2, 3)]
    read = found[: ends[0] + 1] if ends else found
    one = part(data)
    assert one.interrupted == any(message.flags & 0x10 for message in read)
    assert (one.error is not None) == bool(ends)
    assert one.sequence == 7 or not read


def connection(family: int, local: bytes, remote: bytes, info: bytes) -> bytes:
    body = struct.pack(
        "=BBBBHH16s16sI8sIIIII",
        *(
            family,
            1,
            0,
            0,
            socket.htons(40000),
            socket.htons(443),
            local,
            remote,
            3,
            b"cookie78",
            0,
            0,
            0,
            0,
            77,
        ),
    )
    return message(20, body + attribute(8, b"x") + attribute(2, info) + attribute(15, b"yyyy"))


def test_a_connection_with_its_counters():
    info = bytes(120) + struct.pack("=QQ", 2**40, 7) + bytes(50)
    mapped = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
    data = connection(socket.AF_INET, b"\x0a\0\0\2".ljust(16, b"\0"), b"\x0a\0\0\1".ljust(16, b"\0"), info)
    data += connection(socket.AF_INET6, mapped, bytes(15) + b"\1", info)
    data += connection(socket.AF_INET, bytes(16), bytes(16), info[:100])  # older than Linux 4.1
    four, six = parse(messages(data))
    assert (four.local, four.remote, four.inode, four.interface) == (b"\x0a\0\0\2", b"\x0a\0\0\1", 77, 3)
    assert (four.counters, four.cookie) == (Bytes(7, 2**40), b"cookie78")
    assert four.peer == "10.0.0.1, port 443"
    assert six.local == b"\x0a\0\0\1"
    assert six.peer == "::1, port 443"
