"""The findings of the login check, as a person reads them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from mender_monitor_py.commandline import printable, shown
from mender_monitor_py.loginevents import ANYBODY, CONSOLE, SSH, SUDO, Login
from mender_monitor_py.loginsources import Message
from mender_monitor_py.model import Details, Observation, Subject

ACCEPTED, REFUSED = "accepted", "refused"  # the status of an alert's subject
_NAME = 64  # characters of a name
_MAX_NAMES = 10
_MAX_TALLIES = 2000
_NOT_NAMED = "(not named in the log)"
# What sudo gives as the reason, and how it is told; what else it says may hold anything.
_REASONS = (
    ("NOT in sudoers", "not in sudoers"),
    ("NOT authorized on host", "not in sudoers"),
    ("command not allowed", "command not allowed"),
    ("incorrect password attempt", "wrong password"),
    ("a password is required", "no password given"),
    ("authentication failure", "wrong password"),
)


@dataclass
class Tally:
    """How often something was seen while its alert is on."""

    count: int = 0
    first: str = ""
    names: dict[str, None] = field(default_factory=dict)


class Tallies:
    """A tally for each finding; the oldest give way."""

    def __init__(self) -> None:
        self._tallies: OrderedDict[str, Tally] = OrderedDict()

    def add(self, key: str, login: Login, message: Message, *, anew: bool) -> Tally:
        """Count *message* for the finding *key*; *anew*: its alert is not on, or not any more."""
        if anew or key not in self._tallies:
            self._tallies[key] = Tally(first=message.time)
        self._tallies.move_to_end(key)
        if len(self._tallies) > _MAX_TALLIES:
            self._tallies.popitem(last=False)
        tally = self._tallies[key]
        tally.count += message.times
        if len(tally.names) < _MAX_NAMES:
            tally.names[printable(login.user, _NAME) or _NOT_NAMED] = None
        return tally


@dataclass(frozen=True, slots=True)
class Finding:
    """What a login is told as: *name* and *subject* stay the same for as long as it is one finding."""

    name: str
    subject: str

    @property
    def key(self) -> str:
        return f"{self.name}\n{self.subject}"


def finding(login: Login, by: str, *, invalid: bool) -> Finding:
    """The finding that *login* belongs to. *by* is who called sudo or su; *invalid*: its user is none."""
    user = printable(login.user, _NAME) if login.user != ANYBODY else "root"
    title = "Root login" if user == "root" else f"Login of {user}"
    caller = printable(by, _NAME)
    address = printable(login.address, _NAME)
    if login.method == SSH:
        if invalid:
            return Finding("Invalid user refused over ssh", address)
        if login.accepted:
            return Finding(f"{title} over ssh", f"{user} from {address} by {printable(login.how, 160)}")
        return Finding(f"{title} refused over ssh", address)
    if login.method == CONSOLE:
        refused = "" if login.accepted else " refused"
        return Finding(
            f"{title}{refused} on the console", f"{user} on {printable(login.tty, _NAME) or 'a console'}"
        )
    if not login.accepted:
        reason = _reason(login) if login.method == SUDO else ""
        return Finding(
            f"{login.method} to {user} refused for {caller}", f"{caller}: {reason}" if reason else caller
        )
    program = printable(login.commands[0].partition(" ")[0], 160) if login.commands else ""
    return Finding(f"{login.method} to {user} by {caller}", f"{caller} {program}".strip())


def observation(
    found: Finding, login: Login, by: str, message: Message, tally: Tally, level: str
) -> Observation:
    """The observation that tells *found*, which *login* is the newest case of."""
    return Observation(
        level=level,
        name=found.name,
        subject=Subject(found.subject, "login", ACCEPTED if login.accepted else REFUSED),
        details=Details("\n".join(_describe(login, by, message, tally))),
        key=found.key,
        event=True,
        cleared="It was not seen again",
        cleared_status="over",
    )


def _describe(login: Login, by: str, message: Message, tally: Tally) -> list[str]:
    """What a person needs to judge a login, one fact a line."""
    times = f"{tally.count}" if tally.count == 1 else f"{tally.count}, the first at {tally.first}"
    facts = (
        ("refused", "" if login.accepted else printable(login.reason, 200)),
        ("user", ", ".join(tally.names)),
        ("by", printable(by, _NAME)),
        ("from", _origin(login)),
        ("with", printable(login.how, 300)),
        ("command", shown(login.commands[0].split(" ")) if login.commands else ""),
        ("it can be read as", shown(login.commands[-1].split(" ")) if len(login.commands) > 1 else ""),
        ("terminal", printable(login.tty, _NAME)),
        ("time", message.time),
        ("count", times),
        ("pid", message.pid),
        ("systemd unit", printable(message.unit)),
    )
    return [f"{name}: {value}" for name, value in facts if value]


def _origin(login: Login) -> str:
    address = printable(login.address, _NAME)
    return f"{address} port {login.port}" if login.port else address


def _reason(login: Login) -> str:
    return next((told for text, told in _REASONS if text in login.reason), "refused")
