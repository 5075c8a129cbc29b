"""
What of a device a deployment changed itself: the rule, as docs/deployments.md has it.

Pure. A file is the deployment's when it was changed while the deployment installed, and one of these holds:
its content and name are in the artifact; a package that was installed then has it, with this content; all who
wrote it were the update client's own processes. Or it came with the new root file system. That a file is gone
is the deployment's when the client's processes alone touched it, or the new root file system never had it.

A file counts as changed when its mode, owner or times were, too. So of a file that was there before, what the
deployment did not write is whose it was then: its mode and owner, and its content where that was only moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

SLACK_S = 2.0
"""Clocks of file systems are coarse (see inode(7)), and the client is seen a moment after it has begun."""
_CONTENT = re.compile(r"\bsha256: ([0-9a-f]{64})\b")
SPECIAL = 0o6000  # set-uid and set-gid


class Content(NamedTuple):
    """
    A file as it is now. Times in seconds since the epoch; *device* is its file system's number. *born*: when
    the file was made; None: its file system does not tell.

    *names* are its path without links, and that of the entry that leads to it. *open_to_others*: it has
    another name besides, or somebody has it open for writing: what is written so is not told by its path.
    """

    sha256: str
    md5: str
    mode: int
    changed: float
    device: str
    names: tuple[str, ...] = ()
    open_to_others: bool = False
    born: float | None = None


class Why(NamedTuple):
    """
    Why a file is the deployment's, in a few words; empty: it is not. *whole*: its mode and owner are, too;
    *capable*: so are its capabilities.
    """

    words: str = ""
    whole: bool = False
    capable: bool = False


class Packaged(NamedTuple):
    """
    What the package manager says of a file: the MD5 that its package has, and when all was *installed*.
    """

    md5: str
    installed: float


class Image(NamedTuple):
    """
    A root file system that came with a deployment: the number of its *device*, and when it was *booted*
    (seconds since the epoch).
    """

    device: str
    booted: float

    def has(self, device: str, changed: float) -> bool:
        """Whether what was *changed* then on *device* came with it."""
        return device == self.device and changed < self.booted


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What is known of a deployment that ran from *began* to *ended* (seconds since the epoch).

    *payload*: by the SHA-256 of each file of the artifact its names, without folders, and their modes;
    *written*: the paths that the update client's processes wrote or removed, *modified* those at which they
    wrote to a file; *others* those at which somebody else did anything. All of that is known *since* then
    (None: since it began). *found*: the content (SHA-256) of files that were findings before; it is not the
    client's, wherever that put it.
    *image* is the root file system that came with it; None: none did. *packages*: those that were installed
    meanwhile count. Who writes was seen until *watched*; None: to the end.
    """

    began: float
    ended: float
    payload: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    written: frozenset[str] = frozenset()
    modified: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    found: frozenset[str] = frozenset()
    image: Image | None = None
    packages: bool = False
    since: float | None = None
    watched: float | None = None

    def within(self, moment: float) -> bool:
        """Whether it was while the deployment installed."""
        return self.began - SLACK_S <= moment <= self.ended + SLACK_S

    def made(self, born: float | None) -> bool | None:
        """Whether a file that was *born* then was made while the deployment installed; None: not known."""
        return None if born is None else self.within(born)

    def explains(self, path: str, now: Content, packaged: Packaged | None) -> Why:
        """Why the file at *path* is the deployment's, or why not."""
        if self.image is not None and self.image.has(now.device, now.changed):
            return Why("of the image", whole=True, capable=True)
        if not self.within(now.changed):
            return Why()
        made, client = self.made(now.born), self._by_client(now.names or (path,), now)
        if client.whole:
            return client
        special = now.mode & SPECIAL
        given = self.payload.get(now.sha256, {}).get(path.rpartition("/")[2])
        if given is not None and not special & ~given:
            return Why("of the artifact", whole=made is not False)
        # dpkg makes each file anew.
        if self.packages and packaged is not None and packaged.md5 == now.md5 and made is not False:
            # Who gives it a bit later is not the package.
            before = now.changed <= packaged.installed + SLACK_S
            if before or not special:
                return Why("of a package", whole=True, capable=before)
        return client

    def explains_absence(self, path: str, changed: float, device: str) -> str:
        """
        Why nothing is at *path* any more, when that is the deployment's; empty: it is not.

        *changed* and *device* are of the nearest folder above *path* that is there.
        """
        if self.image is not None and self.image.has(device, changed):
            return "not in the image"
        if self.within(changed) and self._alone((path,), self.written, changed):
            return "removed by the update client"
        return ""

    def _by_client(self, names: Iterable[str], now: Content) -> Why:
        """Whether the client alone made the file, perhaps while it loaded the artifact, or wrote to it."""
        since = self.began if self.since is None else self.since
        if now.open_to_others or now.sha256 in self.found:
            return Why()
        if (
            now.born is not None
            and now.born >= since - SLACK_S
            and self._alone(names, self.written, now.changed)
        ):
            return Why("made by the update client", whole=True, capable=True)
        if self._alone(names, self.modified, now.changed):
            return Why("written by the update client")
        return Why()

    def _alone(self, names: Iterable[str], done: frozenset[str], changed: float) -> bool:
        """Whether the client has *done* it to one of *names*, and nobody else anything to them or above."""
        found = set(names)
        seen = self.watched is None or changed <= self.watched
        return (
            seen
            and bool(found & done)
            and not any(path in self.others for name in found for path in _with_parents(name))
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "began": self.began,
            "ended": self.ended,
            "payload": dict(self.payload),
            "written": sorted(self.written),
            "modified": sorted(self.modified),
            "others": sorted(self.others),
            "found": sorted(self.found),
            "image": self.image,
            "packages": self.packages,
            "since": self.since,
            "watched": self.watched,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` made."""
        sets = {name: frozenset(found[name]) for name in ("written", "modified", "others", "found")}
        image = Image(*found["image"]) if found["image"] is not None else None
        return cls(**{**found, **sets, "image": image})


def _with_parents(path: str) -> Iterator[str]:
    while path.strip("/"):
        yield path
        path = path.rpartition("/")[0]


def contents(description: str) -> set[str]:
    """The SHA-256 of each file that a finding of this *description* is about; not of what was expected."""
    return set(_CONTENT.findall(description))


def packaged_md5(list_text: str, sums_text: str, names: frozenset[str]) -> str:
    """
    The MD5 that a package of dpkg has for the file that is called any of *names*; empty: it has none.

    The texts are its ``.list`` (a path a line) and its ``.md5sums`` (``MD5  path without the first slash``).
    """
    if not names.intersection(
        list_text.split("\n")
    ):  # names may have what splitlines() takes for a line's end
        return ""
    for line in sums_text.split("\n"):
        md5, _, path = line.partition("  ")
        if f"/{path}" in names:
            return md5
    return ""
