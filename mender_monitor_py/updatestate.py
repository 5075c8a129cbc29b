"""
What the update client keeps of a deployment in its store: the values of ``state`` and ``standalone-state``.

datastore/statedata.go of the older client and context.cpp of the newer one agree on the former. The address
that the artifact is loaded from holds a signature: it is never taken from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BROKEN = "_INCONSISTENT"  # what the client adds to the name of what it could not roll back

MAX_NAME = 256
_MAX_TYPES = 16
_MAX_JSON = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Managed:
    """
    A deployment from the server, as ``state`` has it.

    *phase* is the client's word. *artifact* is empty until its header was read.
    """

    phase: str
    id: str
    artifact: str
    payload_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standalone:
    """An artifact that somebody installs by hand. *phase* and *failed* are the newer client's."""

    artifact: str
    payload_types: tuple[str, ...]
    phase: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store says. *artifact* is the name of the installed one; empty when it is not known."""

    managed: Managed | None = None
    standalone: Standalone | None = None
    artifact: str = ""


def parse(values: Mapping[bytes, bytes]) -> Stored:
    """The store's values by their keys. Raises ValueError when one is not what a client writes."""
    managed, standalone = values.get(b"state"), values.get(b"standalone-state")
    return Stored(
        _managed(_object(managed, "state")) if managed else None,
        _standalone(_object(standalone, "standalone-state")) if standalone else None,
        _installed(values.get(b"artifact-name", b"").decode(errors="replace")),
    )


def _managed(value: Mapping[str, Any]) -> Managed:
    info = _mapping(value, "UpdateInfo")
    artifact = _mapping(info, "Artifact")
    return Managed(
        phase=_text(value, "Name"),
        id=_text(info, "ID"),
        artifact=_text(artifact, "artifact_name"),
        payload_types=_texts(artifact.get("PayloadTypes")),
    )


def _standalone(value: Mapping[str, Any]) -> Standalone:
    return Standalone(
        artifact=_text(value, "ArtifactName"),
        payload_types=_texts(value.get("PayloadTypes")),
        phase=_text(value, "InState").removeprefix("Before_"),
        failed=value.get("Failed") is True,
    )


def _object(text: bytes, key: str) -> Mapping[str, Any]:
    if len(text) > _MAX_JSON:
        raise ValueError(f"{key} is too long")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{key} is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{key} is not a JSON object")
    return value


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return _bounded(found) if isinstance(found, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    entries = value if isinstance(value, list) else []
    return tuple(_bounded(entry) for entry in entries[:_MAX_TYPES] if isinstance(entry, str))


def _installed(name: str) -> str:
    """However long it is: that it is broken is at its end."""
    found = _bounded(name.removesuffix(BROKEN))
    return found + BROKEN if name.endswith(BROKEN) else found


def _bounded(text: str) -> str:
    return text[:MAX_NAME]
