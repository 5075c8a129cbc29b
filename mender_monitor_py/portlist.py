"""Which open ports are expected: entries of the list, and the verdict on what listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mender_monitor_py.baseline import NOTHING, Glob, quote

PROTOCOLS = ("tcp", "udp")


class Holder(NamedTuple):
    """A process that holds a socket: its number, its name, and the path of its executable."""

    pid: int
    name: str
    executable: str


class Listener(NamedTuple):
    """
    One socket that takes what comes to a port.

    *loopback*: from this machine alone. *ephemeral*: an UDP port that the kernel may give to a client.
    *namespace* is empty for the one that we are in. No *holders*: nobody was found. *hidden*: the kernel
    tells of it in one place, and not in another.
    """

    protocol: str
    number: int
    address: str
    loopback: bool = False
    ephemeral: bool = False
    namespace: str = ""
    inode: int = 0
    holders: tuple[Holder, ...] = ()
    hidden: bool = False

    @property
    def port(self) -> str:
        return f"{self.protocol}/{self.number}"


@dataclass(frozen=True, slots=True)
class Port:
    """What a list is about, and what a finding is: a port with the executable that holds it."""

    protocol: str
    number: int
    holder: Holder | None
    namespace: str = ""
    addresses: tuple[str, ...] = ()
    others: tuple[Holder, ...] = ()
    hidden: bool = False

    @property
    def row(self) -> str:
        """The entry that expects it."""
        name, executable = (self.holder.name, self.holder.executable) if self.holder else ("", "")
        return f"{self.protocol} {self.number} {quote(name)} {quote(executable)}"

    @property
    def key(self) -> str:
        """What tells it from other findings: the subject, with nothing in it that cannot be stored."""
        return self.subject if self.subject.isascii() else quote(self.subject)

    @property
    def subject(self) -> str:
        holder = self.holder.executable if self.holder else "(no process found)"
        inside = f" in {self.namespace}" if self.namespace else ""
        return f"{self.protocol}/{self.number} {holder}{inside}"


@dataclass(frozen=True, slots=True)
class Entry:
    """``tcp 8000-8010 * /opt/app/*``: protocol, port or range, process name, executable."""

    protocol: str
    low: int
    high: int
    name: Glob
    executable: Glob

    @classmethod
    def parse(cls, fields: Sequence[str]) -> Self:
        """The entry of a line's fields; what is left off is ``*``. Raises ValueError with a reason."""
        if not 2 <= len(fields) <= 4:
            raise ValueError("an entry is: tcp|udp PORT[-PORT] [PROCESS-NAME [EXECUTABLE]]")
        protocol, ports, name, executable = [*fields, "*", "*"][:4]
        if protocol not in PROTOCOLS:
            raise ValueError(f"{protocol!r} is neither tcp nor udp")
        low, _, high = ports.partition("-")
        return cls(protocol, _number(low), _number(high or low), _glob(name), _glob(executable))

    def leading(self, real: Callable[[str], str]) -> Entry:
        """This entry, of which what its executable leads to counts, too; see :meth:`Glob.leading`."""
        return replace(self, executable=self.executable.leading(real))

    def covers(self, protocol: str, number: int) -> bool:
        return protocol == self.protocol and self.low <= number <= self.high

    def allows(self, port: Port) -> bool:
        """Whether *port* is what this entry expects."""
        if not self.covers(port.protocol, port.number):
            return False
        name, executable = (port.holder.name, port.holder.executable) if port.holder else ("", "")
        return self.name.matches(name) and self.executable.matches(executable)


def begins_entry(word: str) -> bool:
    """Whether *word* is the first one of an entry in the check file."""
    return word in PROTOCOLS


def relevant(listener: Listener, entries: Iterable[Entry], *, loopback_too: bool) -> bool:
    """
    Whether *listener* is to be judged.

    An ephemeral UDP port is a client's, as a rule. It counts when the list speaks of it: an entry for a port
    of that range, not a wide one that merely reaches into it.
    """
    if listener.loopback and not loopback_too:
        return False
    if not listener.ephemeral:
        return True
    # An ephemeral range is of thousands; who lists one means something else by it.
    return any(entry.covers(listener.protocol, listener.number) and _narrow(entry) for entry in entries)


def ports(listeners: Iterable[Listener], entries: Sequence[Entry]) -> tuple[list[Port], list[Port]]:
    """
    The expected and the unexpected ports among *listeners*.

    A socket is expected when one of its holders is listed for it, and it does not hide. Sockets of one port
    and one executable (a SO_REUSEPORT group, IPv4 beside IPv6, forked workers) are one.
    """
    expected: dict[tuple[str, str], Port] = {}
    unexpected: dict[tuple[str, str], Port] = {}
    for listener in listeners:
        candidates = [_port(listener, holder) for holder in listener.holders or (None,)]
        allowing = () if listener.hidden else entries
        listed = next((port for port in candidates if any(entry.allows(port) for entry in allowing)), None)
        found = expected if listed else unexpected
        port = listed or candidates[0]
        key = port.subject, port.row
        found[key] = _merged(found[key], port) if key in found else port
    return list(expected.values()), list(unexpected.values())


def _port(listener: Listener, holder: Holder | None) -> Port:
    others = tuple(other for other in listener.holders if other != holder)
    address = f"[{listener.address}]" if ":" in listener.address else listener.address
    return Port(
        listener.protocol, listener.number, holder, listener.namespace, (address,), others, listener.hidden
    )


def _merged(one: Port, other: Port) -> Port:
    addresses = tuple(sorted({*one.addresses, *other.addresses}))
    holders = {*one.others, *other.others} | ({other.holder} if other.holder else set())
    others = tuple(sorted(holders - {one.holder}, key=lambda holder: holder.pid))
    hidden = one.hidden or other.hidden
    return Port(one.protocol, one.number, one.holder, one.namespace, addresses, others, hidden)


def _narrow(entry: Entry) -> bool:
    return entry.high - entry.low < 1024


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65_536):
        raise ValueError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _glob(text: str) -> Glob:
    return Glob("" if text == NOTHING else text)
