"""
Which executables are as they should be: entries of the list, and the verdict.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from sys import intern
from typing import NamedTuple, Self

from mender_monitor_py.baseline import NOTHING, Glob, quote

CHANGED, MOVED, MISSING = "changed", "moved", "missing"
ANY = "*"
_ARROW = "->"
_SHA256 = re.compile(r"[0-9a-f]{64}|\*")
_NUMBER = re.compile(r"\d{1,20}|\*")
_DEVICE = re.compile(r"\d{1,10}:\d{1,10}|\*")
_MODE = re.compile(r"[0-7]{3,4}|\*")
_OWNER = re.compile(r"\d{1,10}:\d{1,10}|\*")
_FIELDS = (
    ("SHA-256", _SHA256),
    ("inode", _NUMBER),
    ("device, as 8:1", _DEVICE),
    ("mode, as 0755", _MODE),
    ("owner, as 0:0", _OWNER),
)
_LITERAL = re.compile(r"[^*?[\\]+")


class Executable(NamedTuple):
    """A file as it is: the fields of an entry. *target* is what the path is a link to, else empty."""

    path: str
    sha256: str
    inode: str
    device: str
    mode: str
    owner: str
    target: str = ""

    @property
    def row(self) -> str:
        """The entry that expects it."""
        link = f" {_ARROW} {quote(self.target)}" if self.target else ""
        return (
            " ".join((self.sha256, self.inode, self.device, self.mode, self.owner, quote(self.path))) + link
        )


class Entry(NamedTuple):
    """
    ``sha256 inode device mode owner path``, and ``-> target`` for a link; ``*`` stands for anything.

    A link is its own path with the content, inode, mode and owner of the file that it leads to. *path* and
    *target* are globs as written; *literal* is the only path it means, or empty.
    """

    sha256: str
    inode: str
    device: str
    mode: str
    owner: str
    path: str
    target: str
    literal: str

    @classmethod
    def parse(cls, fields: Sequence[str]) -> Self:
        """The entry of a line's fields. Raises ValueError with a reason."""
        target = NOTHING
        if len(fields) == 8 and fields[6] == _ARROW:
            target, fields = fields[7], fields[:6]
        if len(fields) != 6:
            raise ValueError("not of the form: sha256 inode device mode owner path [-> target]")
        for field, (name, pattern) in zip(fields, _FIELDS, strict=False):
            if not pattern.fullmatch(field):
                raise ValueError(f"{field[:80]!r} is not the {name}")
        sha256, inode, device, mode, owner, path = fields
        if not path.startswith(("/", "\\057")):
            raise ValueError(f"{path[:80]!r} is not an absolute path")
        # Thousands are kept: no pattern for a path that is one, and no text twice.
        literal = path if _LITERAL.fullmatch(path) and path != NOTHING else Glob(path).literal or ""
        mode = mode if mode == ANY else mode.zfill(4)
        return cls(sha256, inode, intern(device), intern(mode), intern(owner), path, target, literal)

    @property
    def subject(self) -> str:
        """The one path that this is about; empty when there may be several."""
        return self.literal

    def names(self, path: str) -> bool:
        """Whether this is about *path*."""
        return path == self.literal if self.literal else Glob(self.path).matches(path)

    def allows(self, found: Executable) -> bool:
        return self.names(found.path) and not self.differences(found)

    def differences(self, found: Executable, *, inode: bool = True, covered: bool = False) -> list[str]:
        """
        What of *found* is other than expected; the content first.

        *inode*: whether the inode counts. *covered*: something is mounted over the file, so that its device
        counts, which else may have another number after each boot.
        """
        compared = [("sha256", found.sha256, self.sha256)]
        if inode:
            compared.append(("inode", found.inode, self.inode))
            if covered:
                compared.append(("device", found.device, self.device))
        compared += [("mode", found.mode, self.mode), ("owner", found.owner, self.owner)]
        wrong = [
            f"{name}: {value}, expected {expected}"
            for name, value, expected in compared
            if expected not in (value, ANY)
        ]
        target = Glob(self.target)
        if not target.matches(found.target):
            expected = self.target if target.literal is None else target.literal
            wrong.append(f"link to: {found.target or 'none'}, expected {expected or 'none'}")
        return wrong


def begins_entry(word: str) -> bool:
    """Whether *word* is the first one of an entry in the check file; others are apart by commas or lines."""
    return len(word) == 64 and _SHA256.fullmatch(word) is not None


class Verdict(NamedTuple):
    """What is wrong with a file: one of the three kinds (empty: nothing), and the reasons."""

    kind: str = ""
    reasons: tuple[str, ...] = ()


def judge(
    entries: Sequence[Entry], found: Executable | None, *, inode: bool = True, covered: bool = False
) -> Verdict:
    """
    The verdict on the file that *entries* are about; one of them is enough. None: there is no file.
    """
    if found is None:
        return Verdict(MISSING, ("there is no such file",))
    best: list[str] | None = None
    for entry in entries:
        wrong = entry.differences(found, inode=inode, covered=covered)
        if not wrong:
            return Verdict()
        if best is None or (_content(wrong), len(wrong)) < (_content(best), len(best)):
            best = wrong
    if best is None:
        return Verdict()
    return Verdict(CHANGED if _content(best) else MOVED, tuple(best))


def _content(wrong: Sequence[str]) -> bool:
    return any(reason.startswith("sha256: ") for reason in wrong)
