"""What travels on a D-Bus bus: a signal, and the signatures that type its arguments."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

# Type codes and alignments: D-Bus Specification, "Type System" and "Marshalling (Wire Format)".
ALIGNMENT = {
    "y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "h": 4,
    "s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8,
}  # fmt: skip
_CLOSING = {"(": ")", "{": "}"}


@dataclass(frozen=True, slots=True)
class Signal:
    """
    A signal as it arrived.

    *sender* is the unique name that the bus put there (it cannot be forged), or ``org.freedesktop.DBus``.
    Variants in *body* are pairs of signature and value.
    """

    sender: str
    path: str
    interface: str
    member: str
    signature: str = ""
    body: tuple[Any, ...] = ()


def type_end(signature: str, start: int) -> int:
    """
    Where the complete type ends that begins at *start* of *signature*.

    Raises ValueError when there is none.
    """
    end = start
    while signature[end : end + 1] == "a":
        end += 1
    code = signature[end : end + 1]
    if code not in ALIGNMENT or not code:
        raise ValueError(f"not a D-Bus signature: {signature!r}")
    end += 1
    if code in _CLOSING:
        while signature[end : end + 1] != _CLOSING[code]:
            end = type_end(signature, end)
        end += 1
    return end


def complete_types(signature: str) -> list[str]:
    """The single complete types of *signature*: ``sa{sv}(ii)`` has three. Raises ValueError."""
    types = []
    start = 0
    while start < len(signature):
        end = type_end(signature, start)
        types.append(signature[start:end])
        start = end
    return types


class Frames:
    """
    Cuts a stream into messages. Of a message longer than *keep* bytes only the first *keep* are kept.

    A bus passes on messages of up to 128 MiB, from anyone to anyone.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that *data* completes. Raises ValueError when the stream is not D-Bus."""
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while True:
            skipped = min(self._skip, len(buffer) - start)
            start += skipped
            self._skip -= skipped
            if self._skip or len(buffer) - start < _FIXED_PART:
                break
            size = _message_size(buffer, start)
            kept = min(size, self._keep)
            if len(buffer) - start < kept:
                break
            frames.append(bytes(buffer[start : start + kept]))
            start += kept
            self._skip = size - kept
        del buffer[:start]
        return frames


_FIXED_PART = 16
_LARGEST = 2**27


def _message_size(buffer: bytearray, start: int) -> int:
    order = _ORDERS.get(buffer[start])
    if order is None or buffer[start + 3] != 1:
        raise ValueError("what came from the bus is not D-Bus protocol version 1")
    body, _, fields = struct.unpack_from(order + "III", buffer, start + 4)
    size: int = _FIXED_PART + fields + -fields % 8 + body
    if size > _LARGEST:
        raise ValueError("what came from the bus is longer than a message can be")
    return size


_ORDERS = {ord("l"): "<", ord("B"): ">"}
