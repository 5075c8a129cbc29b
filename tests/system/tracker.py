"""The data of Debian's security tracker as debsecan fetches it, with what a test wants in it."""

from __future__ import annotations

import zlib

# For each flaw: its name, the source package, and how urgent it is: L, M, H; see /usr/bin/debsecan.
Flaw = tuple[str, str, str]


def feed(*flaws: Flaw) -> bytes:
    """A release of the tracker (release/1), in which each of *flaws* is fixed by version 99."""
    names = [f"{name},,what {name} is about\n" for name, _, _ in flaws]
    packages = [f"{package},{n},S{urgency}RF,99,\n" for n, (_, package, urgency) in enumerate(flaws)]
    binaries = sorted({f"{package},{package}\n" for _, package, _ in flaws})
    return zlib.compress("".join(["VERSION 1\n", *names, "\n", *packages, "\n", *binaries, "\n"]).encode())
