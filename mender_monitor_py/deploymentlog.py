"""
The log of one deployment, ``deployments.NNNN.<id>.log``, of both generations of the update client.

A line is a JSON object of ``timestamp``, ``level`` and ``message``. The newer client (deployments.cpp,
states.cpp) frames a deployment by two messages; the older one (deployment_logger.go, mender.go) logs each
transition from state to state. Modules and scripts write into the same file, so only whole messages are
believed, and nothing of them is shown as it is: addresses hold signatures of downloads.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mender_monitor_py.commandline import MASK, shown

LINES = 20
MAX_LINE = 512
MAX_JSON = 65_536
_MAX_MESSAGE = 8192

NAME = re.compile(r"deployments\.(\d{4})\.([0-9A-Za-z_-]{1,128})\.log")
REPORT = "update-status-report"

_STARTED = re.compile(r"Deployment with ID (\S{1,128}) started\.")
_FINISHED = re.compile(r"Deployment with ID (\S{1,128}) finished with status: (Success|Failure)")
_TRANSITION = re.compile(r"State transition: ([\w-]{1,64}) \[(\w{1,64})\] -> ([\w-]{1,64}) \[(\w{1,64})\]")
# The older client says this when it opens the log of a deployment: anew, or after a start of its own.
_OPENED = re.compile(r"Running Mender (?:client )?version:? .*")
_SHUT_DOWN = re.compile(r"Mender shut down in state: ([\w-]{1,64})")
_ARTIFACT = re.compile(r"\[name: ([^;\]]{1,256}); devices: ")
_MODULE = re.compile(r"Process returned non-zero exit status: (\w{1,64}): Process exited with status")
_SCRIPT = re.compile(r"when running the State Script scripts (\w{1,64})")
_ABORTED = re.compile(
    r"[Ss]tatus report rejected, deployment aborted at the backend"
    r"|Could not send deployment status: Deployment was aborted on the server(: .*)?"
)
_ADDRESS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://)(?:[^\s/?#@\"']*@)?([^\s/?#\"']*)[^\s\"']*")
# What the older client says of an error, at whatever level it logs, and the state that it was in.
_OLDER_ERRORS = (
    (re.compile(r"(?:Artifact install|Fetching Artifact headers) failed: "), "update-store"),
    (
        re.compile(r"(?:Artifact name|Compatible devices) in artifact is not what the server claims "),
        "update-store",
    ),
    (re.compile(r"(?:[a-z]+ error: )?update commit failed: "), "update-commit"),
    (re.compile(r"(?:[a-z]+ error: )?Update module terminated "), ""),
)
_OLDER_SCRIPT = re.compile(r"[a-z]+ error: .{0,200}state script\(s\) for (\w{1,64}) state: ")
# What other logs do not have: tokens of devices and tenants, and signatures that have lost their address.
_TOKEN = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?")
_KEY = re.compile(r"(?i)\b(tenant_?token\W{1,4}|(?:x-amz-)?(?:signature|credential)=)[^\s\"'&,;]+")
# As configurations have them, which modules write: JSON, also within a text, YAML, INI files and headers.
_VALUE = r"""(?:\\{1,3}"(?:(?!\\{1,3}").)*(?:\\{1,3}")?|"(?:[^"\\]|\\.)*"?|'[^']*'?)"""
_WORD = r"""[^\s"']+"""
_STRONG = (
    r"passw(?:or)?d|passphrase|psk|(?:api|access|private)[-_]?key|men-signature"
    r"|(?:access|api|auth|deploy|id|job|private|refresh|session|tenant|vault)[-_]token"
)
_WEAK = r"pwd|secret|token|credentials?"
_NAMED = re.compile(
    rf"""(?i)\b([\w.-]{{0,40}}(?:{_STRONG})(?:\\{{0,3}}["'])?\s{{0,4}}[:=]\s{{0,4}})(?:{_VALUE}|{_WORD})"""
)
# These are words of a sentence, too: "token: expired".
_CALLED = re.compile(
    rf"""(?i)\b([\w.-]{{0,40}}(?:{_WEAK})(?:(?:\\{{0,3}}["'])\s{{0,4}}[:=]|\s{{0,4}}=)\s{{0,4}})(?:{_VALUE}|{_WORD})"""
    rf"""|\b([\w.-]{{0,40}}(?:{_WEAK})\s{{0,4}}:\s{{0,4}}){_VALUE}"""
)
_COOKIES = re.compile(r"""(?i)\b((?:set-)?cookie(?:\\{0,3}["'])?\s{0,4}[:=]\s{0,4}).+""", re.DOTALL)
# What the lines have that tell where a deployment got to; all else in a long log is output.
_TELLING = re.compile(
    rb"State transition: |Deployment with ID |Running Mender |Mender shut down |: Process exited with status"
    rb"|State Script scripts |[Dd]eployment (?:was )?aborted |\[name: "
)
_RETRIES = ("update-retry-report", REPORT)


@dataclass(frozen=True, slots=True)
class DeploymentLog:
    """
    What a log tells.

    *success* is None while it has no end. *phase* is the state that failed first; empty when the log does
    not tell. *rolled_back*: a rollback was begun. *artifact* is its name, as far as the log has it.
    *aborted*: it ended because the server had aborted it. *lines* are the last ones, made fit to be shown.
    *quiet*: the client logs warnings and errors only (``DaemonLogLevel``): such a log has no end. *failed*:
    in a quiet one there is an error as one that fails has it. *began* is the wall time at which it began, in
    seconds since the epoch; 0: unknown. *run* tells the attempts apart that a log has, of a deployment that
    the server tries again: it is another one for each, and empty when the log does not tell.
    """

    success: bool | None = None
    phase: str = ""
    rolled_back: bool = False
    artifact: str = ""
    aborted: bool = False
    lines: tuple[str, ...] = ()
    began: float = 0.0
    quiet: bool = False
    failed: bool = False
    run: str = ""


def parse(deployment: str, lines: Iterable[tuple[int, bytes]], near: int = 0) -> DeploymentLog:
    """
    The log of *deployment*, from its *lines*, each with its place in the file.

    Of those before the place *near* only what tells where it got to is looked at. What is no line of such a
    log, as one that is cut, is left out.
    """
    reader = _Reader(deployment)
    for place, line in lines:
        if (place >= near or _TELLING.search(line)) and (found := _line(line)) is not None:
            reader.read(place, found)
    return reader.found()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the log."""

    level: str
    message: str
    timestamp: str


class _Reader:
    """Reads the lines in their order."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._artifact = ""
        self._quiet = True
        self._failed = False
        self._error_in = ""
        self._lines: deque[_Entry] = deque(maxlen=LINES)
        self._first = ""  # the first line's timestamp
        self._opened: tuple[int, str] | None = None  # place and timestamp, until the next transition
        self._rejected = False  # since then, or since the end
        self._began: tuple[int, str] | None = None
        self._forget()

    def found(self) -> DeploymentLog:
        place, began = self._began or (0, self._first)
        return DeploymentLog(
            self._success,
            self._phase or (self._error_in if self._quiet else ""),
            self._rolled_back,
            self._artifact,
            self._aborted,
            tuple(f"{entry.level}: {fit(entry.message)}" for entry in self._lines),
            _moment(began),
            self._quiet,
            self._quiet and self._failed,
            f"{place} {began}" if self._began is not None else "",
        )

    def _begin(self, place: int, timestamp: str) -> None:
        """The deployment begins here, maybe another time."""
        self._began = place, timestamp
        self._forget()

    def _forget(self) -> None:
        self._success: bool | None = None
        self._phase = ""
        self._aborted = False
        self._rolled_back = False

    def read(self, place: int, entry: _Entry) -> None:
        level, message = entry.level, entry.message
        self._first = self._first or entry.timestamp
        if level not in ("warning", "error", "fatal"):
            self._quiet = False
        if level not in ("debug", "trace"):
            self._lines.append(entry)
        if found := _STARTED.fullmatch(message):
            if found[1] == self._deployment:
                self._begin(place, entry.timestamp)
        elif found := _FINISHED.fullmatch(message):
            if found[1] == self._deployment:
                self._success = found[2] == "Success"
        elif _OPENED.fullmatch(message):
            self._opened = place, entry.timestamp
        elif found := _TRANSITION.fullmatch(message):
            if found[1] == "update-fetch" and (self._opened or self._success is not None):
                self._begin(*(self._opened or (place, entry.timestamp)))
            if self._rejected:
                self._abort()
            self._opened, self._rejected = None, False
            self._transition(found[1], found[2], found[3], found[4])
        elif found := _SHUT_DOWN.fullmatch(message):
            self._failed_in(found[1] if level == "error" else "")
        elif _ABORTED.fullmatch(message):
            # The older client reports before it says by a transition that it began.
            if self._opened or self._success is not None:
                self._rejected = True
            else:
                self._abort()
        elif level in ("error", "fatal"):
            if found := _MODULE.search(message) or _SCRIPT.search(message):
                self._failed_in(found[1])
                self._failed = True
            elif (phase := _older_error(message)) is not None:
                self._error_in = self._error_in or phase
                self._failed = True
        elif (found := _ARTIFACT.search(message)) and not self._artifact:
            self._artifact = found[1]

    def _abort(self) -> None:
        """Of what has failed by then, the server hears in vain."""
        self._aborted = self._aborted or (not self._phase and self._success is None)

    def _transition(self, old: str, old_kind: str, new: str, new_kind: str) -> None:
        if new == REPORT:
            if old not in _RETRIES:
                self._success = old == "cleanup" and old_kind != "Error"
                self._failed_in("" if self._success or old == "cleanup" else old)
            return
        if new == "rollback":
            self._rolled_back = True
        if new in ("rollback", "update-error") or new_kind == "Error":
            self._failed_in("" if old.startswith(("rollback", "cleanup", "update-error")) else old)

    def _failed_in(self, phase: str) -> None:
        self._phase = self._phase or phase


def fit(message: str) -> str:
    """*message* as a person may see it: one bounded line, without secrets and the paths of addresses."""
    text = _ADDRESS.sub(rf"\1\2/{MASK}", message[: 4 * MAX_LINE])
    for pattern in (_KEY, _NAMED, _CALLED, _COOKIES):
        text = pattern.sub(_masked, text)
    return shown((_TOKEN.sub(MASK, text),), MAX_LINE)


def _masked(found: re.Match[str]) -> str:
    """Its name, and no more."""
    return f"{found[found.lastindex or 0]}{MASK}"


def _older_error(message: str) -> str | None:
    """The phase that an error of the older client names; empty: it names none. None: it is no such error."""
    if found := _OLDER_SCRIPT.match(message):
        return found[1]
    return next((phase for pattern, phase in _OLDER_ERRORS if pattern.match(message)), None)


def _line(data: bytes) -> _Entry | None:
    """What a line says."""
    if len(data) > MAX_JSON or not data.startswith(b"{"):
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    level, message, timestamp = value.get("level"), value.get("message"), value.get("timestamp")
    if not isinstance(level, str) or not isinstance(message, str):
        return None
    return _Entry(level[:16], message[:_MAX_MESSAGE], timestamp[:40] if isinstance(timestamp, str) else "")


def _moment(timestamp: str) -> float:
    """
    The wall time that a line tells; 0: none.

    The newer client writes local time with a wrong ``Z``, and with microseconds, which the older one has not.
    """
    try:
        moment = datetime.fromisoformat(timestamp)
        if "." in timestamp and timestamp.endswith("Z"):
            moment = moment.replace(tzinfo=None)
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
