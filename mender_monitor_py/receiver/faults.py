"""Faults on demand: how the receiver misbehaves, for how many requests, and for which."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DARK = "dark"
HANG = "hang"
LOST = "lost"
REFUSE = "refuse"
SLOW = "slow"
STATUS = "status"
KINDS = {
    DARK: "close the connection without an answer",
    HANG: "take the request and never answer",
    LOST: "handle the request, and close the connection without an answer",
    REFUSE: "close the port for some seconds: connection refused",
    SLOW: "answer after some seconds",
    STATUS: "answer with a status code, with Retry-After when wanted",
}
SCOPES = {
    "all": "/api/devices/",
    "alert": "/api/devices/v1/devicemonitor/alert",
    "config": "/api/devices/v1/devicemonitor/config",
    "auth": "/api/devices/v1/authentication/",
    "deployment": "/api/devices/v1/deployments/",
    "artifact": "/artifacts/",
}
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class Fault:
    """
    One way to misbehave.

    *seconds* is the delay of ``slow`` and the duration of ``refuse``; *status*, *retry_after* and *error*
    are the answer of ``status``; *requests* how many requests it lasts (None: until it is reset).
    """

    kind: str
    to: str = "all"
    requests: int | None = None
    seconds: float = 1.0
    status: int = 503
    retry_after: str = ""
    error: str = "a fault was asked for"

    @classmethod
    def from_json(cls, value: object) -> Fault:
        """A fault from its JSON object. Raises ValueError with the reason."""
        if not isinstance(value, Mapping):
            raise ValueError("a fault is a JSON object")
        fields: dict[str, Any] = dict(value)
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"a fault has no field {unknown[0]!r}")
        if fields.get("kind") not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        if fields.get("to", "all") not in SCOPES:
            raise ValueError(f"to must be one of {', '.join(SCOPES)}")
        requests = fields.get("requests")
        if requests is not None and not (type(requests) is int and requests > 0):
            raise ValueError("requests must be a whole number above 0")
        seconds = fields.get("seconds", 1.0)
        if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_SECONDS:
            raise ValueError(f"seconds must be a number from 0 to {MAX_SECONDS:g}")
        status = fields.get("status", 503)
        if type(status) is not int or not 400 <= status <= 599:
            raise ValueError("status must be a number from 400 to 599")
        fields["retry_after"] = str(fields.get("retry_after", ""))
        if not (fields["retry_after"].isascii() and fields["retry_after"].isprintable()):
            raise ValueError("retry_after must be printable")
        fields["error"] = str(fields.get("error", cls.error))
        return cls(**fields)


class Faults:
    """The fault in force, if any. What it holds back is let go when it is reset."""

    def __init__(self) -> None:
        self.current: Fault | None = None
        self._left: int | None = None
        self._changed = asyncio.Event()

    def set(self, fault: Fault) -> None:
        """*fault* from now on, in place of any other."""
        self.reset()
        self.current, self._left = fault, fault.requests

    def reset(self) -> None:
        """Behave again."""
        self.current = None
        self._changed.set()
        self._changed = asyncio.Event()

    def take(self, path: str) -> Fault | None:
        """The fault that a request for *path* meets; it counts."""
        fault = self.current
        if fault is None or not path.startswith(SCOPES[fault.to]):
            return None
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self.current = None
        return fault

    async def hold(self, seconds: float | None) -> None:
        """Wait *seconds* (None: for ever), or until the fault is changed."""
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), seconds)
        except TimeoutError:
            return
