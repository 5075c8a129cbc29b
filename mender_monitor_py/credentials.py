"""Where the device's token and the server's address come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Grant:
    """A token, and the server's address that belongs to it: they are used as a pair."""

    token: str = field(repr=False)
    server: str


class Credentials(Protocol):
    """Every method raises NotSent when there is no token to be had."""

    def current(self) -> Grant:
        """The newest pair."""

    def renewed(self) -> Grant:
        """A pair with a fresh token: the server did not take the old one."""

    def moved(self, failed: Grant) -> Grant | None:
        """Another pair to try, as the server of *failed* did not answer. None: there is none."""

    def close(self) -> None:
        """Give up what is open."""
