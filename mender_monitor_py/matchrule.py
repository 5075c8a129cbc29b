"""
D-Bus match rules: parsed, checked, brought to one form, and applied to signals.

The rules are those of the D-Bus Specification, "Match Rules", as dbus-daemon reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mender_monitor_py.busmessage import Signal, complete_types

BUS = "org.freedesktop.DBus"

# dbus-daemon refuses longer rules: DBUS_MAXIMUM_MATCH_RULE_LENGTH
_LONGEST = 1024
# "The maximum name length is 255" holds for bus, interface and member names alike.
_LONGEST_NAME = 255
_TYPES = ("signal", "method_call", "method_return", "error")
_WHITE = " \t\n\r"

_ELEMENT = "[A-Za-z_][A-Za-z0-9_]*"
_BUS_ELEMENT = "[A-Za-z_-][A-Za-z0-9_-]*"
_INTERFACE = re.compile(rf"{_ELEMENT}(\.{_ELEMENT})+")
_MEMBER = re.compile(_ELEMENT)
_UNIQUE = re.compile(r":[A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_WELL_KNOWN = re.compile(rf"{_BUS_ELEMENT}(\.{_BUS_ELEMENT})+")
_NAMESPACE = re.compile(rf"{_BUS_ELEMENT}(\.{_BUS_ELEMENT})*")
_PATH = re.compile(r"/|(/[A-Za-z0-9_]+)+")
_ARGUMENT = re.compile(r"arg([0-9]+)(path)?")
_LAST_ARGUMENT = 63


@dataclass(frozen=True, slots=True)
class MatchRule:
    """
    A valid match rule: its *keys* with their values, in the rule's order.

    ``str(rule)`` is a normal form: rules that say the same in the same order are the same text.
    """

    keys: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ",".join(f"{key}={_quoted(value)}" for key, value in self.keys)

    def get(self, key: str) -> str | None:
        return next((value for name, value in self.keys if name == key), None)

    def matches(self, signal: Signal, owner: str | None) -> bool:
        """
        Whether the rule selects *signal*.

        *owner* is the unique name of the connection that owns the rule's well-known ``sender``, None when
        nobody does. ``destination`` and ``eavesdrop`` were the bus's business.
        """
        return self.matches_header(signal, owner) and self.matches_arguments(signal)

    def matches_header(self, signal: Signal, owner: str | None) -> bool:
        """As :meth:`matches`, by all but the arguments."""
        return all(
            _header_holds(key, value, signal, owner) for key, value in self.keys if not key.startswith("arg")
        )

    def matches_arguments(self, signal: Signal) -> bool:
        return all(_argument_holds(key, value, signal) for key, value in self.keys if key.startswith("arg"))


def parse(text: str) -> MatchRule:
    """
    The rule that *text* says; an empty one matches every message.

    Raises ValueError with a sentence for the user when the bus would refuse it.
    """
    if len(text.encode("utf-8", "surrogateescape")) > _LONGEST:
        raise ValueError(f"a match rule has at most {_LONGEST} bytes")
    keys: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name, value in _pairs(text):
        key = _known(name, value)
        # arg2 and arg2path are about the same argument, path and path_namespace about the same path
        subject = "path" if key == "path_namespace" else key.removesuffix("path") or key
        subject = "arg0" if key == "arg0namespace" else subject
        if subject in seen and key != "eavesdrop":  # which dbus-daemon takes any number of times
            raise ValueError(f"{key} is given, and {subject} was given before it")
        seen.add(subject)
        keys.append((key, value))
    return MatchRule(tuple(keys))


def is_unique(name: str) -> bool:
    """Whether *name* is a connection's own name, such as ``:1.42``."""
    return name.startswith(":")


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while True:
        while text[position : position + 1] in _WHITE and position < len(text):
            position += 1
        if position >= len(text):
            return
        equals = text.find("=", position)
        key = text[position:equals].rstrip(_WHITE) if equals >= 0 else text[position:]
        if equals < 0 or not key or any(white in key for white in _WHITE):
            raise ValueError(f"a match rule is key='value',... but here stands {text[position:][:40]!r}")
        value, position = _value(text, equals + 1)
        yield key, value


def _value(text: str, position: int) -> tuple[str, int]:
    """The value that begins at *position*, and where the next key may begin."""
    # "Within single quotes, a backslash represents itself, and an apostrophe ends the quoted section.
    #  Outside single quotes, \' represents an apostrophe, and any backslash not followed by an apostrophe
    #  represents itself."
    value = ""
    quoted = False
    while position < len(text):
        character = text[position]
        position += 1
        if quoted:
            if character == "'":
                quoted = False
            else:
                value += character
        elif character == "'":
            quoted = True
        elif character == ",":
            return value, position
        elif character == "\\" and text[position : position + 1] == "'":
            value += "'"
            position += 1
        else:
            value += character
    if quoted:
        raise ValueError("a match rule's quotation mark (') is not closed")
    return value, position


def _known(name: str, value: str) -> str:
    """The key in its normal spelling. Raises ValueError when the key or its value cannot be."""
    argument = _ARGUMENT.fullmatch(name)
    if argument:
        number = int(argument[1])
        if number > _LAST_ARGUMENT:
            raise ValueError(f"{name}: arguments are numbered from 0 to {_LAST_ARGUMENT}")
        return f"arg{number}{argument[2] or ''}"
    valid = {
        "type": value in _TYPES,
        "sender": _named(_UNIQUE, value) or _named(_WELL_KNOWN, value),
        "destination": _named(_UNIQUE, value) or _named(_WELL_KNOWN, value),
        "interface": _named(_INTERFACE, value),
        "member": _named(_MEMBER, value),
        "path": bool(_PATH.fullmatch(value)),
        "path_namespace": bool(_PATH.fullmatch(value)),
        "arg0namespace": _named(_UNIQUE, value) or _named(_NAMESPACE, value),
        "eavesdrop": value in ("true", "false"),
    }.get(name)
    if valid is None:
        raise ValueError(f"{name!r} is not a key of match rules")
    if not valid:
        raise ValueError(f"{name}: {_EXPECTED[name]}, not {value[:60]!r}")
    return name


_EXPECTED = {
    "type": f"one of {', '.join(_TYPES)}",
    "sender": "a bus name such as org.example.Service or :1.42",
    "destination": "a bus name such as org.example.Service or :1.42",
    "interface": "an interface such as org.example.Service",
    "member": "a signal's or method's name",
    "path": "an object path such as /org/example",
    "path_namespace": "an object path such as /org/example",
    "arg0namespace": "the beginning of a name, such as org.example",
    "eavesdrop": "true or false",
}


def _named(pattern: re.Pattern[str], value: str) -> bool:
    return len(value) <= _LONGEST_NAME and bool(pattern.fullmatch(value))


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _header_holds(key: str, value: str, signal: Signal, owner: str | None) -> bool:
    if key == "path":
        return value == signal.path
    if key == "interface":
        return value == signal.interface
    if key == "member":
        return value == signal.member
    if key == "type":
        return value == "signal"
    if key == "sender":
        return signal.sender == (value if is_unique(value) or value == BUS else owner)
    if key == "path_namespace":
        return _is_under(signal.path, value, "/")
    return True


def _argument_holds(key: str, value: str, signal: Signal) -> bool:
    number = int("".join(character for character in key if character.isdigit()))
    argument, code = _argument(signal, number)
    if key == "arg0namespace":
        return code == "s" and _is_under(argument, value, ".")
    if key.endswith("path"):
        # "matches if the argument is equal, or one of the two ends in a slash and is a prefix of the other"
        return code in ("s", "o") and (
            argument == value
            or (value.endswith("/") and argument.startswith(value))
            or (argument.endswith("/") and value.startswith(argument))
        )
    return code == "s" and argument == value


def _argument(signal: Signal, number: int) -> tuple[Any, str]:
    types = complete_types(signal.signature)
    if number >= len(types) or number >= len(signal.body):
        return None, ""
    return signal.body[number], types[number]


def _is_under(name: str, parent: str, separator: str) -> bool:
    return name == parent or name.startswith(parent.rstrip(separator) + separator)
