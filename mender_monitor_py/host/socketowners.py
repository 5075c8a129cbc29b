"""Which processes hold a socket: it is found through their descriptors alone, in /proc/PID/fd."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from mender_monitor_py.host.procfs import Procfs


@dataclass(slots=True)
class Holders:
    """
    The processes that hold each inode, in order of their numbers.

    *complete* is False when some processes were not ours to look at.
    """

    pids: dict[int, list[int]] = field(default_factory=dict)
    complete: bool = True


def find_holders(procfs: Procfs, inodes: Collection[int]) -> Holders:
    """Who holds the sockets *inodes*. It looks at every descriptor of all: for new sockets only."""
    found = Holders()
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for pid in sorted(procfs.pids()):
        try:
            held = {wanted[target] for target in procfs.descriptors(pid) if target in wanted}
        except PermissionError:
            found.complete = False
            continue
        for inode in held:
            found.pids.setdefault(inode, []).append(pid)
    return found
