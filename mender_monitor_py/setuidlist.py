"""
Which set-uid executables are expected: what is found, entries of the list, the verdict, and where to look.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from mender_monitor_py.baseline import Glob, quote
from mender_monitor_py.filesystems import VIRTUAL

SUID, SGID = 0o4000, 0o2000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OWNER = re.compile(r"\d+:\d+")
_MODE = re.compile(r"[0-7]{3,4}")
_CONDITIONS = ("mode", "owner", "caps", "sha256")


class Found(NamedTuple):
    """
    An executable that gives its user more rights than he has.

    *capabilities* as :func:`capabilities.text` has them; *sha256* is empty when the content could not be
    read, or is very long; *nosuid*: on the mount that it was found on they mean nothing.
    """

    path: str
    mode: int
    uid: int
    gid: int
    capabilities: str
    sha256: str
    size: int
    links: int
    nosuid: bool = False

    @property
    def row(self) -> str:
        """The entry that expects it."""
        return " ".join([quote(self.path), *(f"{name}:{value}" for name, value in self.facts.items())])

    @property
    def facts(self) -> dict[str, str]:
        """What the conditions of an entry are about."""
        facts = {"mode": f"{self.mode:04o}", "owner": f"{self.uid}:{self.gid}"}
        if self.capabilities:
            facts["caps"] = self.capabilities
        if self.sha256:
            facts["sha256"] = self.sha256
        return facts


@dataclass(frozen=True, slots=True)
class Entry:
    """``/usr/bin/sudo mode:4755 owner:0:0 sha256:…``: a path, and what must be so there; alone: anything."""

    path: Glob
    conditions: Mapping[str, str]

    @classmethod
    def parse(cls, fields: Sequence[str]) -> Self:
        """The entry of a line's fields. Raises ValueError with a reason."""
        if not fields[0].startswith(("/", "*", "?", "[", "\\057")):
            raise ValueError(f"{fields[0][:80]!r} is not an absolute path")
        conditions: dict[str, str] = {}
        for field in fields[1:]:
            name, colon, value = field.partition(":")
            if not colon or name not in _CONDITIONS or name in conditions:
                raise ValueError(f"{field[:80]!r} is not one of: mode: owner: caps: sha256:")
            conditions[name] = _condition(name, value)
        return cls(Glob(fields[0]), conditions)

    @property
    def subject(self) -> str:
        """The one path that this is about; empty when there may be several."""
        return self.path.literal or ""

    def allows(self, found: Found) -> bool:
        return self.path.matches(found.path) and not self.differences(found)

    def differences(self, found: Found) -> list[str]:
        """What of *found* is other than expected."""
        facts, conditions = found.facts, dict(self.conditions)
        if "mode" in conditions and found.capabilities:  # as learned: without capabilities
            conditions.setdefault("caps", "none")
        return [
            f"{name}: {facts.get(name, 'none, or not known')}, expected {expected}"
            for name, expected in conditions.items()
            if facts.get(name) != expected
        ]


def begins_entry(word: str) -> bool:
    """Whether *word* is the first one of an entry in the check file."""
    return word.startswith(("/", "*"))


class Allowed:
    """The entries of a list, found by path."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._literal: dict[str, list[Entry]] = {}
        self._others: list[Entry] = []
        for entry in entries:
            if entry.path.literal is not None:
                self._literal.setdefault(entry.path.literal, []).append(entry)
            else:
                self._others.append(entry)

    def judge(self, found: Found) -> list[str] | None:
        """None: *found* is expected. Else what is wrong with it; nothing in it when no entry has its path."""
        about = [*self._literal.get(found.path, ()), *(e for e in self._others if e.path.matches(found.path))]
        differing = [entry.differences(found) for entry in about]
        if not all(differing):
            return None
        return min(differing, key=len, default=[])


class Mounted(NamedTuple):
    """A mount: where it is, which folder of which device it shows, its file system, and its flags."""

    path: str
    device: str
    root: str
    kind: str
    nosuid: bool


# Behind a network: a server that is away would stop the scan.
_REMOTE = re.compile(r"nfs\d?|cifs|smb3|smbfs|9p|afs|ceph|coda|ncpfs|gfs2|glusterfs|lustre|fuse\..+|virtiofs")


def walks(paths: Iterable[str], mounts: Sequence[Mounted], *, other_file_systems: bool) -> list[str]:
    """
    The trees that cover *paths* (absolute, without links), each file once. They end at :func:`barriers`.

    With *other_file_systems* the mounts below too: not those without files of their own, not those behind a
    network, and not those that show again what is seen elsewhere with the same rights.
    """
    on_top = _on_top(mounts)
    stop = barriers(mounts)
    wanted = sorted(set(paths))
    found = list(wanted)
    if other_file_systems:
        seen = [mount for path in wanted if (mount := _mount_of(path, on_top)) and mount.path == path]
        for mount in on_top.values():
            if mount.path not in stop or mount.path in wanted or not _is_below_any(mount.path, wanted):
                continue
            if mount.kind in VIRTUAL or _REMOTE.fullmatch(mount.kind):
                continue
            if not any(_shows(other, mount) for other in seen):
                seen.append(mount)
                found.append(mount.path)
    return [path for path in found if not _is_covered(path, found, stop)]


def barriers(mounts: Sequence[Mounted]) -> frozenset[str]:
    """
    Where another file system begins, or another part of the same one.

    What is mounted over itself, as a service manager does to make it read-only, is none.
    """
    on_top = _on_top(mounts)
    return frozenset(path for path, mount in on_top.items() if not _is_in_place(mount, on_top))


def is_nosuid(path: str, mounts: Sequence[Mounted]) -> bool:
    """Whether the bits of a file at *path* mean nothing there."""
    stop = barriers(mounts)
    mount = _mount_of(path, {one.path: one for one in mounts if one.path in stop})
    return mount is not None and mount.nosuid


def is_below(path: str, folder: str) -> bool:
    """Whether *path* is *folder*, or in it at any depth."""
    return path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")


def exclusion(globs: Iterable[Glob]) -> str:
    """A regular expression that matches the paths of *globs*; empty when there are none."""
    return "|".join(f"(?:{glob.regex})" for glob in globs)


def excluded(path: str, pattern: re.Pattern[str] | None) -> bool:
    """Whether *path*, or a folder above it, matches *pattern*."""
    return pattern is not None and any(pattern.fullmatch(part) for part in and_parents(path))


def and_parents(path: str) -> Iterator[str]:
    """*path*, and each folder above it but the topmost."""
    while path not in ("", "/"):
        yield path
        path = path.rpartition("/")[0]


def _mount_of(path: str, mounts: Mapping[str, Mounted]) -> Mounted | None:
    """The mount that *path* is on."""
    return next((mounts[part] for part in (*and_parents(path), "/") if part in mounts), None)


def _shows(seen: Mounted, again: Mounted) -> bool:
    """Whether *again* shows what *seen* does, with no more rights."""
    return (
        seen.device == again.device and is_below(again.root, seen.root) and (again.nosuid or not seen.nosuid)
    )


def _on_top(mounts: Iterable[Mounted]) -> dict[str, Mounted]:
    """The mounts that are seen: what was mounted last covers what was there."""
    return {mount.path: mount for mount in mounts}


def _is_in_place(mount: Mounted, mounts: Mapping[str, Mounted]) -> bool:
    """Whether the mount shows at its place what would be seen there without it."""
    if mount.path == "/":
        return False
    below = _mount_of(mount.path.rpartition("/")[0] or "/", mounts)
    if below is None or below.device != mount.device:
        return False
    rest = mount.path.removeprefix("" if below.path == "/" else below.path)
    return mount.root == ("" if below.root == "/" else below.root) + rest


def _is_below_any(path: str, folders: Iterable[str]) -> bool:
    return any(is_below(path, folder) for folder in folders)


def _is_covered(path: str, walked: Sequence[str], stop: frozenset[str]) -> bool:
    """Whether the walk of a folder above *path* comes by."""
    part = path
    while part not in stop and part != "/":
        part = part.rpartition("/")[0] or "/"
        if part in walked:
            return True
    return False


def _condition(name: str, value: str) -> str:
    if name == "sha256" and not _SHA256.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a SHA-256 in hexadecimal")
    if name == "owner" and not _OWNER.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not an owner: numbers, as 0:0")
    if name == "mode":
        if not _MODE.fullmatch(value):
            raise ValueError(f"{value[:80]!r} is not a mode, as 4755")
        return value.zfill(4)
    return value
