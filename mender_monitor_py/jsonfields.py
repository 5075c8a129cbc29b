"""
What a foreign JSON document holds, typed at the door: each function raises ValueError with what is wrong.

Pure. A member that is absent and one that is null are the same.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


def parsed(data: bytes, known: frozenset[str]) -> Any:
    """The JSON of *data*, of each object only the members *known*. Raises ValueError."""

    def keep(one: Json) -> Json:
        return {name: value for name, value in one.items() if name in known}

    try:
        return json.loads(data, object_hook=keep)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8: {error.reason}") from None


def object_of(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_kind(value)}, not an object")
    return value


def member_of(holder: Json, name: str) -> Json:
    value = holder.get(name)
    return {} if value is None else object_of(value, name)


def items_of(holder: Json, name: str) -> list[Any]:
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_kind(value)}, not a list")
    return value


def text_of(holder: Json, name: str) -> str:
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_kind(value)}, not a text")
    return value


def texts_of(holder: Json, name: str) -> list[str]:
    found = items_of(holder, name)
    if not all(isinstance(one, str) for one in found):
        raise ValueError(f"{name} holds something other than texts")
    return found


def needed(text: str, name: str) -> str:
    if not text:
        raise ValueError(f"a finding has no {name}")
    return text


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
