"""
Whether a web address answers: an HTTP HEAD request by curl(1), every CONNECTIVITY_INTERVAL seconds.

Any answer will do, an error page too. curl runs outside the watcher, which has no network itself.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.runner import Completed
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report

ANSWER_S = 10
RETRY_S = 5.0
_NOT_FOUND = 127


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is not an http or https address")
    return text


def _interface(text: str) -> str:
    if text.startswith("-") or "/" in text or any(c.isspace() for c in text):
        raise ValueError(f"{text!r} is not the name of a network interface")
    return text


def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError(f"{text!r} is not a number of seconds, 1 or more")
    return float(text)


_URL = Field("CONNECTIVITY_URL", _url, "the http or https address", required=True, argument="URL")
_INTERFACE = Field(
    "CONNECTIVITY_INTERFACE", _interface, "the network interface to use, any when empty", argument="INTERFACE"
)
_INTERVAL = Field("CONNECTIVITY_INTERVAL", _seconds, "seconds from request to request", default="60")


class ConnectivityCheck(Check):
    """A web address does not answer twice in a row."""

    subsystem = "connectivity"
    summary = "a web address that does not answer"
    fields = (_URL, _INTERFACE, _INTERVAL)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self._url: str = definition.value(_URL)
        self._interface: str = definition.value(_INTERFACE)
        self._interval: float = definition.value(_INTERVAL)

    async def run(self, host: Host, report: Report) -> None:
        with host.runner.held():
            while True:
                failure = await self._failure(host)
                if failure and not report.is_bad():
                    # One lost packet is no outage.
                    await asyncio.sleep(RETRY_S)
                    failure = await self._failure(host)
                report.observe(judge(self._url, failure, self.settings.default_alert_level))
                await report.pause(self._interval)

    async def _failure(self, host: Host) -> str:
        command = request(self._url, self._interface)
        return why(await host.runner.run(command, timeout=ANSWER_S + 5))


def request(url: str, interface: str) -> list[str]:
    """The command that asks for *url*; -q keeps a user's curlrc out of it."""
    through = ["--interface", interface] if interface else []
    how = ["--head", "--silent", "--show-error", "--output", "/dev/null", "--max-time", str(ANSWER_S)]
    return ["curl", "-q", *how, *through, "--url", url]


def why(done: Completed) -> str:
    """Why there was no answer; empty: there was one. Raises UnknownError when nobody could ask."""
    if done.status == _NOT_FOUND:
        raise UnknownError("curl is not installed")
    if done.status == 0:
        return ""
    said = done.output.decode(errors="backslashreplace").strip()
    return said or f"no answer within {ANSWER_S} s"


def judge(url: str, failure: str, level: str) -> Observation:
    """What an answer, or the *failure* to get one, means."""
    return Observation(
        level=level if failure else OK,
        name=f"Unable to connect to the address '{url}'",
        subject=Subject(url, "connectivity", "unreachable" if failure else "reachable"),
        details=Details(failure or "The address answers again"),
    )


CHECK = ConnectivityCheck
