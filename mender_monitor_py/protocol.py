"""What the watcher and the sender process say to each other: JSON objects, one a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from mender_monitor_py.errors import TransportError

MAX_REQUEST = 8 * 1024 * 1024  # bytes of a line to the sender: a batch, its characters escaped
MAX_REPLY = 512 * 1024  # bytes of a line from it
MAX_BODY = 64 * 1024  # bytes of a server's answer that are read
IDLE = 300.0  # seconds without a request after which the sender process ends

_MOST_REQUESTS = 100  # that one post can take

Wait = Literal["server", "token", "setup"]


class NotSent(TransportError):
    """No answer. *wait* is what is missing: the server, a token, or a setup that can work."""

    def __init__(self, reason: str, wait: Wait) -> None:
        self.wait: Wait = wait
        super().__init__(reason)


@dataclass(frozen=True)
class Setup:
    """
    What the sender process needs to know. It reads no file of ours, so certificates and keys are PEM text.

    With a *device_key* it asks the *servers* for a token itself, else the update client over D-Bus.
    *proxies* are the environment's ``http_proxy``, ``https_proxy`` and ``no_proxy``.
    """

    alert_url: str = ""
    servers: tuple[str, ...] = ()
    server_certificate: str = ""
    client_certificate: str = ""
    client_key: str = field(default="", repr=False)
    tenant_token: str = field(default="", repr=False)
    device_key: str = field(default="", repr=False)
    id_data: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)

    def message(self) -> dict[str, Any]:
        return {"do": "setup", **asdict(self)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Raises ValueError when *message* is no setup."""
        values = {key: value for key, value in message.items() if key != "do"}
        try:
            values["servers"] = tuple(values.get("servers", ()))
            return cls(**values)
        except TypeError as error:
            raise ValueError("not a setup message") from error


@dataclass(frozen=True, slots=True)
class Reply:
    """
    The outcome of one post: an HTTP *status*, or an *error* and what to *wait* for.

    *requests* is the number of HTTP requests that it took.
    """

    status: int = 0
    body: str = ""
    retry_after: float | None = None
    requests: int = 1
    error: str = ""
    wait: Wait | None = None

    def message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Raises ValueError when *message* is no reply."""
        try:
            reply = cls(**message)
            valid = (
                isinstance(reply.status, int)
                and isinstance(reply.requests, int)
                and 0 <= reply.requests <= _MOST_REQUESTS
                and isinstance(reply.body, str)
                and isinstance(reply.error, str)
                and reply.wait in ("server", "token", "setup", None)
                and (reply.retry_after is None or 0 <= reply.retry_after < float("inf"))
            )
        except TypeError as error:
            raise ValueError("not a reply") from error
        if not valid:
            raise ValueError("not a reply")
        return reply


def encode(message: Mapping[str, Any]) -> bytes:
    """*message* as one line of ASCII."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The object that *line* holds. Raises ValueError when it is none."""
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def printable(text: str, longest: int = 200) -> str:
    """*text*, which came from outside, fit for a log: one line, escaped, bounded."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown if len(shown) <= longest else shown[:longest] + "…"
