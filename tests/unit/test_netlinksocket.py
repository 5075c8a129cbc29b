"""The answers to netlink dumps, in whatever datagrams they come."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from mender_monitor_py.host.netlinksocket import NetlinkSocket

ERROR, DONE, LINK = 2, 3, 16
INTERRUPTED = 0x10


class Kernel:
    """Answers each request with the next of *answers*: datagrams of messages (kind, flags, body)."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.answers: list[list[list[tuple[int, int, bytes]]]] = []

    def answer(self) -> None:
        sequence = struct.unpack_from("=I", self._end.recv(4096), 8)[0]
        for datagram in self.answers.pop(0):
            self._end.send(b"".join(message(sequence, *fields) for fields in datagram))


def message(sequence: int, kind: int, flags: int, body: bytes) -> bytes:
    head = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 7)
    return head + body + bytes(-len(body) % 4)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Behind each netlink socket that is made."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    kernel = Kernel(its)

    class Answered:
        def send(self, data: bytes) -> None:
            ours.send(data)
            kernel.answer()

        def recv(self, size: int) -> bytes:
            return ours.recv(size)

        def settimeout(self, _: float) -> None:
            ours.settimeout(0.01)

        def bind(self, _: tuple[int, int]) -> None:
            pass

    monkeypatch.setattr("mender_monitor_py.host.netlinksocket.socket.socket", lambda *_: Answered())
    yield kernel
    ours.close()
    its.close()


END = (DONE, 2, struct.pack("=i", 0))
ONE, TWO = (LINK, 2, b"one"), (LINK, 2, b"twos")


def bodies(found: NetlinkSocket) -> list[bytes]:
    return [bytes(one.body) for one in found.dump(18, b"")]


@pytest.mark.parametrize(
    "answer", [[[ONE], [TWO], [END]], [[ONE, TWO], [END]], [[ONE, TWO, END]], [[ONE], [TWO, END]]]
)
def test_the_end_may_be_in_any_datagram(kernel: Kernel, answer: list[list[tuple[int, int, bytes]]]) -> None:
    kernel.answers = [answer, answer]
    asked = NetlinkSocket(0)
    assert bodies(asked) == [b"one", b"twos"]
    assert bodies(asked) == [b"one", b"twos"]


def test_the_same_answer_has_the_same_bytes(kernel: Kernel) -> None:
    kernel.answers = [[[ONE, END]], [[ONE, END]], [[TWO, END]]]
    asked = NetlinkSocket(0)
    first, second, third = (asked.datagrams(18, b"") for _ in range(3))
    assert first == second != third


def test_what_was_interrupted_is_asked_for_again(kernel: Kernel) -> None:
    kernel.answers = [[[ONE, (DONE, INTERRUPTED, bytes(4))]], [[TWO, END]]]
    assert bodies(NetlinkSocket(0)) == [b"twos"]


def test_an_answer_without_an_end_is_given_up_and_its_rest_is_no_part_of_the_next(kernel: Kernel) -> None:
    kernel.answers = [[[ONE]], [[TWO, END]]]
    asked = NetlinkSocket(0)
    with pytest.raises(TimeoutError):
        asked.dump(18, b"")
    kernel._end.send(message(1, *ONE) + message(1, *END))
    assert bodies(asked) == [b"twos"]


def test_an_error_is_raised(kernel: Kernel) -> None:
    kernel.answers = [[[(ERROR, 0, struct.pack("=i", -errno.EPERM))]]]
    with pytest.raises(PermissionError):
        NetlinkSocket(0).dump(18, b"")
