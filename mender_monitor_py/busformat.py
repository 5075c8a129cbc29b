"""
A D-Bus message as the text that ``dbus-monitor`` prints for it, straight from its bytes.

From the bytes and not from decoded values: decoding 32 MiB, which any local user may send, would take ten
times that in memory. Here the work ends with the text's limit. The one difference to dbus-monitor: a file
descriptor is ``file descriptor`` alone, without what it refers to.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from mender_monitor_py.busmessage import ALIGNMENT, type_end

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4

#: Text that is longer is cut.
LIMIT = 65_536
CUT = b"... (the rest of this message is cut)"

_KINDS = {
    METHOD_CALL: "method call",
    METHOD_RETURN: "method return",
    ERROR: "error",
    SIGNAL: "signal",
}
_FIXED = {
    "y": ("B", "byte"), "n": ("h", "int16"), "q": ("H", "uint16"), "i": ("i", "int32"),
    "u": ("I", "uint32"), "x": ("q", "int64"), "t": ("Q", "uint64"),
}  # fmt: skip
_STRINGS = {"s": b"string", "o": b"object path", "g": b"signature"}
_INDENT = b"   "
# "The maximum depth of container type nesting is 32 array type codes and 32 open parentheses"; variants
# count on their own, and a bus refuses messages deeper than this.
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Header:
    """A message's header. Fields that it does not have are empty; *body* is where the body begins."""

    type: int
    serial: int
    order: str
    body: int
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""


# Header field codes: D-Bus Specification, "Message Format".
_FIELDS = {
    1: "path", 2: "interface", 3: "member", 4: "error_name", 5: "reply_serial",
    6: "destination", 7: "sender", 8: "signature",
}  # fmt: skip


def read_header(raw: bytes) -> Header:
    """The header of the message that begins *raw*. Raises ValueError when it is none."""
    try:
        order = {ord("l"): "<", ord("B"): ">"}[raw[0]]
        serial, length = struct.unpack_from(order + "II", raw, 8)
        reader = _Reader(raw, 16, order)
        fields: dict[str, str | int] = {}
        while reader.position < 16 + length:
            reader.align(8)
            name = _FIELDS.get(reader.fixed("B", 1))
            signature = reader.string("g").decode()
            if signature in _STRINGS and name:
                fields[name] = reader.string(signature).decode()
            elif signature == "u" and name:
                fields[name] = reader.fixed("I", 4)
            else:
                reader.text(signature, 0)
        reader.align(8)
        return Header(raw[1], serial, order, reader.position, **fields)  # type: ignore[arg-type]
    except (KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"not a D-Bus message: {error}") from error


def message_lines(raw: bytes, header: Header, at: float, limit: int = LIMIT) -> list[bytes]:
    """
    The lines that ``dbus-monitor`` prints for a message that arrived at *at* (seconds since the epoch).

    What is incomplete or damaged is printed as far as it can be read, and marked.
    """
    reader = _Reader(raw, header.body, header.order, limit)
    reader.out.append(_headline(header, at).encode() + b"\n")
    try:
        reader.text(header.signature, 1)
    except (IndexError, ValueError, struct.error):
        reader.out.append(b"\n" + CUT)
    return b"".join(reader.out).removesuffix(b"\n").split(b"\n")


def _headline(header: Header, at: float) -> str:
    seconds, micros = divmod(round(at * 1_000_000), 1_000_000)
    kind = _KINDS.get(header.type, "(unknown message type)")
    line = (
        f"{kind} time={seconds}.{micros:06d} sender={header.sender or '(null sender)'}"
        f" -> destination={header.destination or '(null destination)'}"
    )
    if header.type in (METHOD_CALL, SIGNAL):
        return (
            f"{line} serial={header.serial} path={header.path or '(null)'};"
            f" interface={header.interface or '(null)'}; member={header.member or '(null)'}"
        )
    if header.type == METHOD_RETURN:
        return f"{line} serial={header.serial} reply_serial={header.reply_serial}"
    if header.type == ERROR:
        return f"{line} error_name={header.error_name} reply_serial={header.reply_serial}"
    return line


class _Reader:
    """Walks marshalled values and collects their text; raises ValueError at *limit* bytes of it."""

    def __init__(self, raw: bytes, position: int, order: str, limit: int = LIMIT) -> None:
        self.raw = raw
        self.position = position
        self.order = order
        self.out: list[bytes] = []
        self._left = limit

    def align(self, size: int) -> None:
        self.position += -self.position % size

    def fixed(self, code: str, size: int) -> int:
        self.align(size)
        (value,) = struct.unpack_from(self.order + code, self.raw, self.position)
        self.position += size
        return int(value)

    def string(self, code: str) -> bytes:
        length = self.fixed("B", 1) if code == "g" else self.fixed("I", 4)
        start, self.position = self.position, self.position + length + 1
        if self.position > len(self.raw):
            self._write(self.raw[start:])
            raise ValueError("the message is cut")
        return self.raw[start : start + length]

    def text(self, signature: str, depth: int) -> None:
        """The values of *signature*, each on its lines, *depth* steps to the right."""
        start = 0
        while start < len(signature):
            end = type_end(signature, start)
            self._write(_INDENT * depth)
            self._value(signature[start:end], depth)
            start = end

    def _write(self, text: bytes) -> None:
        if len(text) > self._left:
            self.out.append(text[: self._left])
            raise ValueError("the text is too long")
        self._left -= len(text)
        self.out.append(text)

    def _value(self, signature: str, depth: int) -> None:
        code = signature[0]
        if code in _FIXED:
            letter, name = _FIXED[code]
            self._write(f"{name} {self.fixed(letter, ALIGNMENT[code])}\n".encode())
        elif code in _STRINGS:
            self._write(_STRINGS[code] + b' "')
            self._write(self.string(code) + b'"\n')
        elif code == "b":
            self._write(b"boolean true\n" if self.fixed("I", 4) else b"boolean false\n")
        elif code == "d":
            self._write(f"double {self._double()}\n".encode())
        elif code == "h":
            self.fixed("I", 4)
            self._write(b"file descriptor\n")
        elif depth > _DEEPEST:
            raise ValueError("the message is nested too deeply")
        elif code == "v":
            self._write(b"variant ")
            self.text(self.string("g").decode("ascii"), depth + 1)
        elif code == "a":
            self._array(signature[1:], depth)
        else:
            self.align(8)
            opening, closing = (b"struct {\n", b"}\n") if code == "(" else (b"dict entry(\n", b")\n")
            self._write(opening)
            self.text(signature[1:-1], depth + 1)
            self._write(_INDENT * depth + closing)

    def _double(self) -> str:
        self.align(8)
        (value,) = struct.unpack_from(self.order + "d", self.raw, self.position)
        self.position += 8
        # printf(3) shows the sign of a NaN, Python does not
        return "-nan" if math.isnan(value) and math.copysign(1, value) < 0 else f"{value:g}"

    def _array(self, element: str, depth: int) -> None:
        length = self.fixed("I", 4)
        self.align(ALIGNMENT[element[0]])
        end = self.position + length
        if element == "y" and length:
            data = self.raw[self.position : end]
            self._write(_bytes_text(data, depth))
            if len(data) < length:
                raise ValueError("the message is cut")
            self.position = end
            return
        self._write(b"array [\n")
        while self.position < end:
            self.text(element, depth + 1)
        self._write(_INDENT * depth + b"]\n")


def _bytes_text(data: bytes, depth: int) -> bytes:
    """Printable ASCII as text, where one NUL may end it; else hexadecimal, wrapped at 80 columns."""
    body = data.removesuffix(b"\0")
    if all(32 <= byte <= 126 for byte in body):
        return b'array of bytes "' + body + (b'" + \\0\n' if len(body) < len(data) else b'"\n')
    columns = max((80 - (depth + 1) * len(_INDENT)) // 3, 8)
    rows = [data[start : start + columns].hex(" ").encode() for start in range(0, len(data), columns)]
    lines = b"".join(_INDENT * (depth + 1) + row + b"\n" for row in rows)
    return b"array of bytes [\n" + lines + _INDENT * depth + b"]\n"
