"""The device's identity, as its identity script prints it."""

from __future__ import annotations

import json


def id_data(output: str) -> str:
    """
    The JSON text for ``id_data`` from ``key=value`` lines; a repeated key becomes a list.

    Raises ValueError when there is nothing, or a line that is something else.
    """
    values: dict[str, str | list[str]] = {}
    for line in output.splitlines():
        if not line.strip():
            continue
        key, equals, value = line.partition("=")
        if not (equals and key.strip()):
            raise ValueError("a line of the identity script's output is not key=value")
        earlier = values.get(key)
        if earlier is None:
            values[key] = value
        else:
            values[key] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
    if not values:
        raise ValueError("the identity script printed nothing")
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
