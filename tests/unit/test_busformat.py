"""The text of a message is what the real dbus-monitor prints for it."""

from __future__ import annotations

import math
import re
import select
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jeepney import (
    DBusAddress,
    Endianness,
    HeaderFields,
    Message,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from mender_monitor_py.busformat import CUT, LIMIT, message_lines, read_header
from mender_monitor_py.busmessage import complete_types
from tests.fakes.private_bus import PrivateBus

LAMP = DBusAddress("/org/example/Lamp", interface="org.example.Lamp")


class Monitor:
    """A sender on a bus of its own, and the real dbus-monitor's words for what it sends."""

    def __init__(self, bus: DBusConnection, process: subprocess.Popen[bytes]) -> None:
        self.bus = bus
        self._process = process
        self._serial = 1000

    def prints(self, message: Message) -> list[bytes]:
        """What dbus-monitor prints for *message*, the time left out; *message* gets its sender and serial."""
        self._serial += 2
        message.header.serial = self._serial
        self.bus.send_message(message, serial=self._serial)
        end = new_signal(LAMP, "End", "u", (self._serial,))
        self.bus.send_message(end, serial=self._serial + 1)
        message.header.fields[HeaderFields.sender] = self.bus.unique_name
        return self.until(b"   uint32 %d\n" % self._serial)

    def until(self, last: bytes) -> list[bytes]:
        assert self._process.stdout is not None
        lines: list[bytes] = []
        while not lines or lines[-1] != last:
            lines.append(self._process.stdout.readline())
            assert lines[-1], "dbus-monitor has ended"
        return [without_time(line.removesuffix(b"\n")) for line in lines[:-2]]


def without_time(line: bytes) -> bytes:
    return re.sub(rb"^((?:signal|error|method call|method return) )time=\d+\.\d{6} ", rb"\1", line)


def ours(message: Message) -> list[bytes]:
    raw = message.serialise(serial=max(message.header.serial, 1))
    return [without_time(line) for line in message_lines(raw, read_header(raw), 1.5)]


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    with PrivateBus(tmp_path_factory.mktemp("bus")) as private:
        rules = ["type='signal',interface='org.example.Lamp'", "path='/org/example/Lamp'", "type='error'"]
        process = subprocess.Popen(
            ["dbus-monitor", "--address", private.address, *rules, "type='method_return'"],
            stdout=subprocess.PIPE,
        )
        try:
            with process, open_dbus_connection(private.address, auth_timeout=30) as bus:
                monitor = Monitor(bus, process)
                first = new_signal(LAMP, "Begin", "u", (1,))
                assert process.stdout is not None
                while not select_line(process, b"   uint32 1\n"):
                    bus.send_message(first)
                # the ones that were sent more than once
                monitor.prints(new_signal(LAMP, "Settle"))
                yield monitor
                process.terminate()
        finally:
            process.kill()


def select_line(process: subprocess.Popen[bytes], wanted: bytes) -> bool:
    """Whether *wanted* was printed within a short while."""
    assert process.stdout is not None
    while select.select([process.stdout], [], [], 0.1)[0]:
        line = process.stdout.readline()
        assert line, "dbus-monitor has ended"
        if line == wanted:
            return True
    return False


BODIES: list[tuple[str, tuple[Any, ...]]] = [
    ("", ()),
    ("s", ("hello",)),
    ("s", ("",)),
    ("s", ('a "quoted" one\nin two lines, with ä€𝄞\t\x01',)),
    ("s", ("\n\n",)),
    ("sog", ("text", "/a/path", "a{sv}")),
    ("ybnqiuxt", (255, True, -5, 65535, -(2**31), 2**32 - 1, -(2**63), 2**64 - 1)),
    ("b", (False,)),
    ("dddddd", (0.1, 1e100, -0.0, 123456789.0, float("inf"), float("-inf"))),
    ("as", (["a", "b"],)),
    ("as", ([],)),
    ("ay", (b"",)),
    ("ay", (b"text",)),
    ("ay", (b"text\0",)),
    ("ay", (b"\0",)),
    ("ay", (b"te\0xt",)),
    ("ay", (b"text\0\0",)),
    ("ay", (bytes(range(256)),)),
    ("ay", (b"\xff",)),
    ("aay", ([b"a", b"\xff" * 24, b""],)),
    ("a(ay)", ([(b"\x01" * 60,)],)),
    ("v", (("s", "x"),)),
    ("v", (("v", ("v", ("i", 5))),)),
    ("a{sv}", ({"one": ("i", 1), "two": ("as", ["x"]), "three": ("(si)", ("y", 2))},)),
    ("a{oa{sa{sv}}}", ({"/x": {"i.f": {"p": ("ay", b"\x80")}}},)),
    ("(s(ii)a(s))", (("x", (1, 2), [("y",)]),)),
    ("ax", ([1, -1],)),
    ("a{yt}", ({1: 2},)),
    ("aai", ([[], [1]],)),
]


@pytest.mark.parametrize(("signature", "body"), BODIES)
def test_a_signal_reads_as_dbus_monitor_prints_it(
    monitor: Monitor, signature: str, body: tuple[Any, ...]
) -> None:
    message = new_signal(LAMP, "Switched", signature or None, body)
    assert monitor.prints(message) == ours(message)


def test_nan_keeps_its_sign(monitor: Monitor) -> None:
    for value in (math.nan, -math.nan):
        message = new_signal(LAMP, "Switched", "d", (value,))
        assert monitor.prints(message) == ours(message)


def test_calls_returns_and_errors_read_as_dbus_monitor_prints_them(monitor: Monitor) -> None:
    """The sender is its own peer: it answers the calls that it sends."""
    us = DBusAddress("/org/example/Lamp", monitor.bus.unique_name, "org.example.Lamp")
    call = new_method_call(us, "Switch", "s", ("on",))
    assert monitor.prints(call) == ours(call)
    call.header.fields[HeaderFields.sender] = monitor.bus.unique_name
    answer = new_method_return(call, "i", (1,))
    answer.header.fields[HeaderFields.reply_serial] = call.header.serial
    assert monitor.prints(answer) == ours(answer)

    again = new_method_call(us, "Switch")
    again.header.fields.pop(HeaderFields.interface)
    assert monitor.prints(again) == ours(again)
    again.header.fields[HeaderFields.sender] = monitor.bus.unique_name
    refusal = new_error(again, "org.example.Refused", "s", ("no",))
    refusal.header.fields[HeaderFields.reply_serial] = again.header.serial
    assert monitor.prints(refusal) == ours(refusal)


TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
BASIC: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "n": st.integers(-(2**15), 2**15 - 1),
    "q": st.integers(0, 2**16 - 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "u": st.integers(0, 2**32 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1),
    "d": st.floats(allow_nan=False),
    "s": TEXT,
    "o": st.sampled_from(["/", "/a", "/a/b_1"]),
    "g": st.sampled_from(["", "s", "a{sv}", "(ii)"]),
}
SIGNATURES = st.recursive(
    st.sampled_from([*BASIC, "v"]),
    lambda inner: st.one_of(
        inner.map(lambda one: "a" + one),
        st.lists(inner, min_size=1, max_size=3).map(lambda many: f"({''.join(many)})"),
        st.tuples(st.sampled_from(list(BASIC)), inner).map(lambda two: f"a{{{two[0]}{two[1]}}}"),
    ),
    max_leaves=6,
)


@st.composite
def values(draw: st.DrawFn, signature: str) -> Any:
    """A value of the one complete type *signature*."""
    code = signature[0]
    if code in BASIC:
        return draw(BASIC[code])
    if code == "v":
        inner = draw(st.sampled_from(["s", "i", "ay", "as", "(dv)", "a{sv}", "v"]))
        return inner, draw(values(inner))
    if code == "(":
        return tuple(draw(values(one)) for one in complete_types(signature[1:-1]))
    if signature == "ay":
        return draw(st.binary(max_size=40) | TEXT.map(str.encode))
    if signature[1] == "{":
        key, value = complete_types(signature[2:-1])
        return draw(st.dictionaries(BASIC[key], values(value), max_size=3))
    return draw(st.lists(values(signature[1:]), max_size=3))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_body_reads_as_dbus_monitor_prints_it(monitor: Monitor, data: st.DataObject) -> None:
    types = data.draw(st.lists(SIGNATURES, max_size=3))
    body = tuple(data.draw(values(one)) for one in types)
    message = new_signal(LAMP, "Switched", "".join(types) or None, body)
    assert monitor.prints(message) == ours(message)


def test_the_first_line_tells_the_time() -> None:
    message = new_signal(LAMP, "Switched")
    raw = message.serialise(serial=7)
    assert message_lines(raw, read_header(raw), 1700000000.25) == [
        b"signal time=1700000000.250000 sender=(null sender) -> destination=(null destination) serial=7"
        b" path=/org/example/Lamp; interface=org.example.Lamp; member=Switched"
    ]


def test_big_endian_messages_are_read() -> None:
    message = new_signal(LAMP, "Switched", "usd", (1, "x", 0.5))
    little = ours(message)
    message.header.endianness = Endianness.big
    assert ours(message) == little


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("as", (["x" * 1000] * 1000,)),
        ("ay", (b"\xff" * 1_000_000,)),
        ("s", ("x" * 1_000_000,)),
        ("ai", ([1] * 100_000,)),
    ],
)
def test_a_huge_message_is_cut_and_marked(signature: str, body: tuple[Any, ...]) -> None:
    raw = new_signal(LAMP, "Switched", signature, body).serialise(serial=1)
    lines = message_lines(raw, read_header(raw), 0)
    assert lines[-1] == CUT
    assert LIMIT <= sum(map(len, lines)) + len(lines) < LIMIT + 500


@pytest.mark.parametrize("keep", [120, 130, 180, 250])
def test_a_message_of_which_only_the_beginning_was_kept_is_marked(keep: int) -> None:
    raw = new_signal(LAMP, "Switched", "ssay", ("a" * 50, "b" * 50, b"c" * 50)).serialise(serial=1)
    lines = message_lines(raw[:keep], read_header(raw), 0)
    whole = message_lines(raw, read_header(raw), 0)
    assert lines[0] == whole[0]
    assert lines[-1] == CUT


def nested(depth: int) -> bytes:
    value: Any = ("y", 1)
    for _ in range(depth):
        value = ("v", value)
    raw: bytes = new_signal(LAMP, "Switched", "v", (value,)).serialise(serial=1)
    return raw


def test_nesting_has_a_limit() -> None:
    raw = nested(300)
    assert message_lines(raw, read_header(raw), 0)[-1] == CUT


@settings(deadline=None)
@given(st.data())
def test_damaged_messages_are_an_error_or_marked_never_a_crash(data: st.DataObject) -> None:
    body = ("x", {"a": ("i", 1)}, [b"\1\2"], 1.5)
    raw = bytearray(new_signal(LAMP, "Switched", "sa{sv}aayd", body).serialise(serial=1))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        header = read_header(damaged)
    except ValueError:
        return
    assert sum(map(len, message_lines(damaged, header, 0))) < LIMIT + 1000


def test_header_fields_of_the_future_are_passed_over() -> None:
    """The specification: "header fields with an unknown field code ... must be ignored"."""
    message = new_signal(LAMP, "Switched", "s", ("x",))
    raw = message.serialise(serial=3)
    fields = struct.unpack_from("<I", raw, 12)[0]
    padding = -fields % 8
    extra = bytes([200, 1]) + b"s\0" + struct.pack("<I", 3) + b"new\0"
    head = raw[:12] + struct.pack("<I", fields + padding + len(extra)) + raw[16 : 16 + fields]
    body = raw[16 + fields + padding :]
    changed = head + bytes(padding) + extra + bytes(-len(extra) % 8) + body
    assert read_header(changed).member == "Switched"
    assert message_lines(changed, read_header(changed), 0)[-1] == b'   string "x"'
