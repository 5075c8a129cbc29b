"""
Files that are run still though a deployment has replaced or removed them: which, and what a user is told.

Pure. No list has them: an attacker who replaces the next one is told again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mender_monitor_py.commandline import printable

MOST = 256  # that are kept
_NAMED = 3


class ReplacedFile(NamedTuple):
    """
    A file that had *path*, and is nowhere any more. The numbers tell it from every other there ever was.

    *changed* is its ctime in nanoseconds, so when it was removed: its inode may be another file's later.
    """

    path: str
    device: int
    inode: int
    changed: int

    @property
    def identity(self) -> tuple[int, int, int]:
        return self.device, self.inode, self.changed


def to_text(files: Iterable[ReplacedFile], boot: str) -> str:
    """*files*, to be stored for the rest of this *boot*; empty: there are none."""
    rows = list(map(list, files))
    return json.dumps({"boot": boot, "files": rows}) if rows else ""


def from_text(text: str, boot: str) -> list[ReplacedFile]:
    """What :meth:`to_text` wrote in this *boot*; what ran in another one does not run any more."""
    try:
        found = json.loads(text)
        return list(map(from_json, found["files"])) if found["boot"] == boot else []
    except (KeyError, TypeError, ValueError):
        return []


def from_json(row: Sequence[Any]) -> ReplacedFile:
    """A file that was written as a list. Raises TypeError or ValueError when it is none."""
    path, *numbers = row
    device, inode, changed = map(int, numbers)
    return ReplacedFile(str(path), device, inode, changed)


def note(running: Mapping[str, Sequence[int]]) -> str:
    """What a user has to know of processes, by the path of what they run; empty: there are none."""
    count = sum(map(len, running.values()))
    if not count:
        return ""
    named = [_named(path, running[path]) for path in sorted(running)[:_NAMED]]
    more = len(running) - len(named)
    names = ", ".join(named) + (f" and {more} more" if more else "")
    who, them = ("1 process runs", "it") if count == 1 else (f"{count} processes run", "them")
    return f"{who} software that a deployment has replaced: {names}: restart {them}"


def _named(path: str, pids: Sequence[int]) -> str:
    shown = " ".join(map(str, sorted(pids)[:_NAMED]))
    return f"{printable(path, 200)} (pid {shown}{' …' if len(pids) > _NAMED else ''})"
