"""
Logins in the messages of sshd, dropbear, sudo, su and login.

Pure. Whoever can reach sshd chooses a user name, and any local user a folder and a command line: all of them
end up in these texts. So a message is matched as a whole. A name that can hold anything is taken as the
longest text that its message leaves for it, since what the program itself writes behind it comes last; the
name of a user who exists has no space in it. Where a text can be read in more ways than one, all of them are
given.

The texts are those of OpenSSH 9.2 and 10.0 (auth.c, packet.c), sudo 1.9.13 and 1.9.16 (lib/eventlog),
util-linux 2.38 and 2.41 and shadow 4.13 (su, login), BusyBox 1.36 and dropbear 2022.83.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

SSH, SUDO, SU, CONSOLE = METHODS = ("ssh", "sudo", "su", "console")
ANYBODY = ""  # a user whom the message does not name
_MAX_CONNECTIONS = 1000


class Stage(Enum):
    """What a message says of an attempt."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    ANNOUNCED = "announced"  # refused already; the attempt itself has yet to come
    TRIED = "tried"  # one key of maybe many was not accepted
    CLOSED = "closed"  # the connection ended before anything was accepted


@dataclass(frozen=True, slots=True)
class Login:
    """
    What a message says. Texts are as the message has them: an attacker's.

    *user* is who was to be logged in, or whose rights were asked for; *by* who asked (sudo, su). *how* is
    what was shown: a password, a key with its fingerprint. *commands* are all that the command of sudo can be
    read as. *known* is false for a name that is no user's.
    """

    method: str
    stage: Stage
    user: str
    by: str = ""
    address: str = ""
    port: int = 0
    how: str = ""
    commands: tuple[str, ...] = ()
    tty: str = ""
    reason: str = ""
    known: bool = True

    @property
    def accepted(self) -> bool:
        return self.stage is Stage.ACCEPTED


def parse(method: str, message: str) -> tuple[Login, ...]:
    """
    The logins that a *message* of the programs of *method* tells of, as a rule one or none.

    Several: the message can be read in several ways.
    """
    return _PARSERS[method](message)


class Connections:
    """
    One attempt is one event, though sshd may have several lines for it.

    A key that was not accepted is no refusal while another key may follow: the end of the connection tells.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, int], tuple[Stage, Login]] = OrderedDict()

    def judge(self, login: Login) -> Login | None:
        """The event that *login* is, its stage accepted or refused. None: it is none (yet)."""
        if login.method != SSH or not login.port:
            return login if login.stage in (Stage.ACCEPTED, Stage.REFUSED) else None
        place = (login.address, login.port)
        before, first = self._open.pop(place, (None, login))
        if login.stage is Stage.ACCEPTED:
            return login
        if login.stage is Stage.CLOSED:
            counted = before in (Stage.REFUSED, Stage.ANNOUNCED)
            if counted or (before is None and not login.user):
                return None
            return replace(login, stage=Stage.REFUSED, user=first.user, known=first.known)
        if login.stage is Stage.TRIED:
            self._keep(place, before or Stage.TRIED, first)
            return None
        if login.stage is Stage.ANNOUNCED:
            self._keep(place, before if before is Stage.REFUSED else Stage.ANNOUNCED, login)
            return None if before in (Stage.REFUSED, Stage.ANNOUNCED) else replace(login, stage=Stage.REFUSED)
        self._keep(place, Stage.REFUSED, login)
        return None if before is Stage.ANNOUNCED else login

    def _keep(self, place: tuple[str, int], stage: Stage, login: Login) -> None:
        self._open[place] = (stage, login)
        if len(self._open) > _MAX_CONNECTIONS:
            self._open.popitem(last=False)


_PREAUTH = r"(?: \[preauth\])?"
_ENDED = r"(?:Connection (?:closed|reset) by|Disconnected from|Disconnecting)"
# auth_log(): "METHOD for USER from ADDRESS port PORT ssh2", and what identifies a key behind it.
_DECIDED = re.compile(
    rf"(Accepted|Failed) (\S+) for (\S+) from (\S+) port (\d+) ssh2(?:: (.*))?{_PREAUTH}", re.DOTALL
)
_DECIDED_INVALID = re.compile(
    rf"Failed (\S+) for invalid user (.*) from (\S+) port (\d+)(?: ssh2)?{_PREAUTH}", re.DOTALL
)
_INVALID = re.compile(rf"Invalid user (.*) from (\S+) port (\d+){_PREAUTH}", re.DOTALL)
_NOT_PERMITTED = re.compile(rf"ROOT LOGIN REFUSED FROM (\S+) port (\d+){_PREAUTH}")
# The name of a user who exists; a reason may follow that holds names.
_CLOSED = re.compile(rf"{_ENDED} authenticating user (\S+) (\S+) port (\d+)(?:: .*)?{_PREAUTH}", re.DOTALL)
# sshd calls those "invalid" whom DenyUsers and the like keep out, too.
_CLOSED_INVALID = re.compile(
    rf"{_ENDED} invalid user (\S+) (\S+) port (\d+)(?:: Too many authentication failures)?{_PREAUTH}"
)
_EXCEEDED = re.compile(
    r"(?:error: )?maximum authentication attempts exceeded for (?:invalid user )?(\S+)"
    rf" from (\S+) port (\d+) ssh2{_PREAUTH}"
)
_TIMED_OUT = re.compile(r"(?:fatal: )?Timeout before authentication for (\S+) port (\d+)")

_NOT_A_KEY = "the connection ended without a key or password that was accepted"


def _ssh(message: str) -> tuple[Login, ...]:
    if found := _DECIDED.fullmatch(message):
        outcome, how, user, address, port, key = found.groups()
        one = Login(SSH, Stage.ACCEPTED, user, address=address, port=_number(port), how=_how(how, key))
        if outcome == "Failed":
            one = replace(one, stage=_failed(how), reason=f"{how} was not accepted")
        return (one,)
    if found := _DECIDED_INVALID.fullmatch(message):
        how, user, address, port = found.groups()
        reason = f"{how} was not accepted"
        one = Login(SSH, _failed(how), user, address=address, port=_number(port), reason=reason, known=False)
        return (one,)
    if found := _INVALID.fullmatch(message):
        user, address, port = found.groups()
        one = Login(SSH, Stage.ANNOUNCED, user, address=address, port=_number(port), known=False)
        return (replace(one, reason="there is no such user"),)
    if found := _NOT_PERMITTED.fullmatch(message):
        reason = "root may not log in (PermitRootLogin)"
        address, port = found.groups()
        return (Login(SSH, Stage.ANNOUNCED, "root", address=address, port=_number(port), reason=reason),)
    for pattern in (_CLOSED, _CLOSED_INVALID, _EXCEEDED):
        if found := pattern.fullmatch(message):
            user, address, port = found.groups()
            known = pattern is not _CLOSED_INVALID
            return (_closed(user, address, port, known=known),)
    if found := _TIMED_OUT.fullmatch(message):
        return (_closed("", *found.groups()),)
    return _dropbear(message)


def _closed(user: str, address: str, port: str, *, known: bool = True) -> Login:
    return Login(SSH, Stage.CLOSED, user, address=address, port=_number(port), reason=_NOT_A_KEY, known=known)


def _failed(how: str) -> Stage:
    """A client tries its keys in turn, and "none" first to learn what is possible."""
    return Stage.TRIED if how in ("publickey", "none") else Stage.REFUSED


def _how(method: str, key: str | None) -> str:
    return f"{method} {key}" if key else method


_DROPBEAR_OK = re.compile(
    r"(?:(PAM password|Password) auth succeeded|Auth succeeded with (blank password))"
    r" for '([^']*)' from (\S+):(\d+)"
)
_DROPBEAR_KEY = re.compile(r"Pubkey auth succeeded for '([^']*)' with (?:(\S+) key )?(.*) from (\S+):(\d+)")
_DROPBEAR_BAD = re.compile(r"Bad (?:PAM )?password attempt for '([^']*)' from (\S+):(\d+)")
_DROPBEAR_INVALID = re.compile(r"Login attempt for nonexistent user(?: '(.*)')? from (\S+):(\d+)", re.DOTALL)


def _dropbear(message: str) -> tuple[Login, ...]:
    if found := _DROPBEAR_OK.fullmatch(message):
        how, blank, user, address, port = found.groups()
        how = blank or ("password" if how == "Password" else how)
        return (Login(SSH, Stage.ACCEPTED, user, address=address, port=_number(port), how=how),)
    if found := _DROPBEAR_KEY.fullmatch(message):
        user, kind, key, address, port = found.groups()
        how = " ".join(filter(None, ("publickey", kind, key)))
        return (Login(SSH, Stage.ACCEPTED, user, address=address, port=_number(port), how=how),)
    if found := _DROPBEAR_BAD.fullmatch(message):
        user, address, port = found.groups()
        reason = "password was not accepted"
        return (Login(SSH, Stage.REFUSED, user, address=address, port=_number(port), reason=reason),)
    if found := _DROPBEAR_INVALID.fullmatch(message):
        user, address, port = found[1] or "", found[2], found[3]
        one = Login(SSH, Stage.REFUSED, user, address=address, port=_number(port), known=False)
        return (replace(one, reason="there is no such user"),)
    return ()


_SUDO_CONTINUED = re.compile(r" *\S+ : \(command continued\) ?(.*)", re.DOTALL)
_SUDO = re.compile(
    r" *(\S+) : (?!\(command continued\))(?:(.*?) ; )??(?:HOST=\S* ; )?TTY=(\S*)(.*)", re.DOTALL
)
_TARGET = re.compile(r" ; USER=(\S+)(?= ;)")  # the next one may begin with what ends it
_COMMAND = " ; COMMAND="
# Not programs: "sudo -l" and "sudo -v" run nothing.
_QUESTIONS = re.compile(r"(?:list|validate)(?: .*)?", re.DOTALL)


def _sudo(message: str) -> tuple[Login, ...]:
    """
    ``USER : REASON ; TTY=... ; PWD=... ; USER=... ; COMMAND=...``, the reason only when it was refused.

    The folder and the command are the caller's choice. What looks like a field within them gives another way
    to read the message.
    """
    found = _SUDO.fullmatch(message)
    if found is None:
        return ()
    by, reason, tty, rest = found.groups()
    commands = tuple(rest[at + len(_COMMAND) :] for at in _places(rest, _COMMAND))
    users = dict.fromkeys("root" if user == "#0" else user for user in _TARGET.findall(rest))
    if reason is None and commands and all(_QUESTIONS.fullmatch(command) for command in commands):
        return ()
    stage = Stage.ACCEPTED if reason is None else Stage.REFUSED
    return tuple(
        Login(SUDO, stage, user, by=by, tty=tty, commands=commands, reason=reason or "")
        for user in users or (ANYBODY,)
    )


def is_record(message: str) -> bool:
    """Whether *message* of sudo says what was run or refused; sudo may continue such a one in the next."""
    return _SUDO.fullmatch(message) is not None


def continuation(message: str) -> str | None:
    """What *message* of sudo adds to the one before. None: it is no continuation."""
    found = _SUDO_CONTINUED.fullmatch(message)
    return found[1] if found else None


def _places(text: str, part: str) -> list[int]:
    """Where *part* begins in *text*, some places at most."""
    found: list[int] = []
    at = -1
    while len(found) < 16 and (at := text.find(part, at + 1)) >= 0:
        found.append(at)
    return found


_SU = re.compile(r"(FAILED SU )?\(to (.*)\) (\S*) on (\S+)", re.DOTALL)
_SU_SIGN = re.compile(r"([+-]) (\S+) ([^\s:]+):([^\s:]+)")


def _su(message: str) -> tuple[Login, ...]:
    if found := _SU.fullmatch(message):
        failed, user, by, tty = found.groups()
    elif found := _SU_SIGN.fullmatch(message):
        failed, tty, by, user = found.groups()
        failed = failed == "-"
    else:
        return ()
    reason = "the password was not accepted" if failed else ""
    return (Login(SU, Stage.REFUSED if failed else Stage.ACCEPTED, user, by=by, tty=tty, reason=reason),)


_CONSOLE_ROOT = (
    re.compile(r"ROOT LOGIN +on '([^']*)'(?: from '(.*)')?", re.DOTALL),
    re.compile(r"ROOT LOGIN ON (\S+)(?: FROM (.*))?", re.DOTALL),
    re.compile(r"root login on '([^']*)'(?: from '(.*)')?", re.DOTALL),
)
# The name may hold anything, but the reason behind it is of the program's own.
_CONSOLE_REFUSED = (
    re.compile(r"FAILED LOGIN \(\d+\) on '([^']*)'(?: from '[^']*')? FOR '(.*)', ([^',]*)", re.DOTALL),
    re.compile(
        r"(?:FAILED LOGIN(?: SESSION| \d+)?|TOO MANY LOGIN TRIES \(\d+\)) FROM (\S+) FOR (.*), ([^,]*)",
        re.DOTALL,
    ),
)
_CONSOLE_REFUSED_BUSYBOX = re.compile(
    r"invalid password for '(.*)' on '([^']*)'(?: from '[^']*')?", re.DOTALL
)
_CONSOLE_SESSION = re.compile(
    r"pam_unix\(login:session\): session opened for user ([^\s(]+)(?:\(uid=\d+\))? by .*"
)


def _console(message: str) -> tuple[Login, ...]:
    for pattern in _CONSOLE_ROOT:
        if found := pattern.fullmatch(message):
            return (Login(CONSOLE, Stage.ACCEPTED, "root", tty=_tty(found[1]), address=found[2] or ""),)
    for pattern in _CONSOLE_REFUSED:
        if found := pattern.fullmatch(message):
            tty, user, reason = found.groups()
            return (Login(CONSOLE, Stage.REFUSED, user, tty=_tty(tty), reason=reason),)
    if found := _CONSOLE_REFUSED_BUSYBOX.fullmatch(message):
        user, tty = found.groups()
        return (Login(CONSOLE, Stage.REFUSED, user, tty=_tty(tty), reason="invalid password"),)
    # Of other users shadow's login says no more than this; of root it says both.
    if (found := _CONSOLE_SESSION.fullmatch(message)) and found[1] != "root":
        return (Login(CONSOLE, Stage.ACCEPTED, found[1]),)
    return ()


def _tty(path: str) -> str:
    return path.removeprefix("/dev/")


def _number(digits: str) -> int:
    """A port; what is none is 0."""
    return int(digits) if len(digits) <= 5 and digits.isascii() else 0


_PARSERS: dict[str, Callable[[str], tuple[Login, ...]]] = {
    SSH: _ssh,
    SUDO: _sudo,
    SU: _su,
    CONSOLE: _console,
}
