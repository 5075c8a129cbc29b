"""
What a foreign JSON document holds, typed at the door: each function raises ValueError with what is wrong.

Pure. A member that is absent and one that is null are the same.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

_LONGEST = 400


def parsed(data: bytes, known: frozenset[str]) -> Any:
    """
    The JSON of *data*, of each object only the members *known*, of each text the first 400 characters.

    So it takes little more memory than *data* itself, however much else a report says. Raises ValueError.
    """

    def keep(one: Json) -> Json:
        return {
            name: value[:_LONGEST] if isinstance(value, str) else value
            for name, value in one.items()
            if name in known
        }

    try:
        return json.loads(data, object_hook=keep)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8: {error.reason}") from None


def object_of(value: Any, what: str) -> Json:
    """*value*, of which an error speaks as *what*, as an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_kind(value)}, not an object")
    return value


def member_of(holder: Json, name: str) -> Json:
    """The member *name* as an object, an empty one where there is none."""
    value = holder.get(name)
    return {} if value is None else object_of(value, name)


def items_of(holder: Json, name: str) -> list[Any]:
    """The member *name* as a list, an empty one where there is none."""
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_kind(value)}, not a list")
    return value


def text_of(holder: Json, name: str) -> str:
    """The member *name* as a text, an empty one where there is none."""
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_kind(value)}, not a text")
    return value


def texts_of(holder: Json, name: str) -> list[str]:
    """The member *name* as a list of texts."""
    found = items_of(holder, name)
    if not all(isinstance(one, str) for one in found):
        raise ValueError(f"{name} holds something other than texts")
    return found


def needed(text: str, name: str) -> str:
    """*text*, which must not be empty: a finding's *name*."""
    if not text:
        raise ValueError(f"a finding has no {name}")
    return text


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
