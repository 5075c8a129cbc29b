"""
LOGIN_ALLOW: the logins that are expected.

    ssh root 10.0.0.0/8              user, network
    sudo admin /usr/bin/systemctl*   user, path of the command, arguments
    su operator                      user
    console root ttyS0               user, terminal

Pure. What is left off may be anything. An entry is for what succeeds: what was refused is never expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

from mender_monitor_py.baseline import Glob
from mender_monitor_py.loginevents import CONSOLE, METHODS, SSH, SUDO, Login

_NO_ARGUMENTS = '""'
_MOST = {SSH: 3, CONSOLE: 3, "su": 2}
_USAGE = (
    "an entry is: ssh USER [NETWORK] | sudo USER [COMMAND [ARGUMENTS]] | su USER | console USER [TERMINAL]"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One entry. *user* is who logs in, with sudo and su the one who calls them.

    *what* is a command's path, or a terminal.
    """

    method: str
    user: Glob
    network: IPv4Network | IPv6Network | None = None
    what: Glob | None = None
    arguments: Glob | None = None

    @classmethod
    def parse(cls, fields: Sequence[str]) -> Self:
        """The entry of these words. Raises ValueError with a reason."""
        if len(fields) < 2 or fields[0] not in METHODS:
            raise ValueError(_USAGE)
        method, user, *rest = fields
        if len(fields) > _MOST.get(method, len(fields)):
            raise ValueError(_USAGE)
        if not rest:
            return cls(method, Glob(user))
        if method == SSH:
            return cls(method, Glob(user), network=ip_network(rest[0], strict=False))
        arguments = _arguments(rest[1:]) if len(rest) > 1 else None
        return cls(method, Glob(user), what=Glob(rest[0]), arguments=arguments)

    def allows(self, login: Login, by: str) -> bool:
        """Whether *login* is what this entry expects; *by* is who called sudo or su."""
        if login.method != self.method:
            return False
        if self.method == SSH:
            return self.user.matches(login.user) and _is_in(login.address, self.network)
        if self.method == CONSOLE:
            return self.user.matches(login.user) and (self.what is None or self.what.matches(login.tty))
        if not self.user.matches(by):
            return False
        if self.method != SUDO or self.what is None:
            return True
        return bool(login.commands) and all(map(self._runs, login.commands))

    def _runs(self, command: str) -> bool:
        assert self.what is not None
        path, _, arguments = command.partition(" ")
        if "/../" in path or not self.what.matches(path):
            return False
        return self.arguments is None or self.arguments.matches(arguments)


def begins_entry(word: str) -> bool:
    """Whether *word* is the first one of an entry."""
    return word in METHODS


def expected(readings: Iterable[Login], by: str, entries: Sequence[Entry]) -> bool:
    """Whether each of the *readings* of one message is what some entry expects."""
    return all(any(entry.allows(login, by) for entry in entries) for login in readings)


def _arguments(words: Sequence[str]) -> Glob:
    """As in sudoers(5): ``*`` stands for anything among the arguments, ``""`` for none."""
    return Glob("" if list(words) == [_NO_ARGUMENTS] else re.sub(r"\*+", "**", " ".join(words)))


def _is_in(address: str, network: IPv4Network | IPv6Network | None) -> bool:
    if network is None:
        return True
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found in network
