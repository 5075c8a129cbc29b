"""
Which programs are expected to run: what a process counts as, entries of the list, and the verdict.

Pure. A program is named by the path of its executable; an interpreter by the script that it runs, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mender_monitor_py.baseline import Glob, quote
from mender_monitor_py.commandline import is_interpreter, is_shell

ELSEWHERE = "elsewhere:"
KERNEL = "kernel:"
DELETED = " (deleted)"

_CONDITIONS = ("sha256", "user", "parent")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/\d+")
_KERNEL_NAME = re.compile(r"[^/:\d]+")
_ENV = ("/usr/bin/env", "/bin/env")
_LOADER = re.compile(r"(?:/usr)?/lib(?:32|64|x32|o32|n32)?(?:/[\w.-]+)?/ld(?:-[\w.-]+)?\.so(?:\.\d+)?")


def brought_by(executable: str, script: str | None) -> str:
    """
    The file that makes a process what it is: the script of an interpreter, else the executable.

    Empty when it has none: what runs from memory, or an interpreter that was given code in its arguments.
    """
    if script is None or (script and not script.startswith("/")):
        return ""
    found = script or executable
    return found if found.startswith("/") and not found.endswith(DELETED) else ""


class Opened(NamedTuple):
    """
    A file that *pid* opened to execute it. *head* is how it begins.

    *device* and *inode* say which file it was, whatever is at *path* now.
    """

    pid: int
    path: str
    head: bytes
    device: int
    inode: int


class Image(NamedTuple):
    """
    What a process runs.

    *executable* is the path; with ``elsewhere:`` before it, it is not the file that has this path for us, but
    one of another mount namespace, or one that is covered by now. *script* is what an interpreter runs: a
    path, ``-c``, ``-m NAME``; empty: none, or what it reads from its standard input; None: it was gone before
    its command line could be read.
    """

    executable: str
    script: str | None = ""

    @property
    def label(self) -> str:
        return f"{self.executable} {self.script}" if self.script else self.executable

    @property
    def row(self) -> str:
        """The entry that expects it."""
        return (
            f"{quote(self.executable)} {_quoted_script(self.script)}"
            if self.script
            else quote(self.executable)
        )

    @property
    def deleted(self) -> bool:
        """Whether its file was removed, or replaced, after it was executed."""
        return self.executable.endswith(DELETED) and "/memfd:" not in self.executable

    @property
    def odd(self) -> str:
        """Why it is a finding whatever the list says; empty: it is not."""
        if self.executable.startswith(("/memfd:", f"{ELSEWHERE}/memfd:")):
            return "it runs from memory: there is no file of it"
        if self.deleted:
            return "its executable was deleted after the start"
        if self.script is not None and _DESCRIPTOR.fullmatch(self.script):
            return "it runs a script from an open descriptor: the file has no name"
        return ""


def file_of(image: Image) -> str:
    """The file that makes *image* what it is: see :func:`brought_by`."""
    return brought_by(image.executable, image.script)


class Facts(NamedTuple):
    """What the conditions of an entry are about. Empty: not known."""

    user: str = ""
    parent: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """``/usr/bin/python3 /opt/x.py user:app parent:/usr/lib/systemd/systemd``, or the script's path alone."""

    executable: Glob
    script: Glob | None = None
    user: Glob | None = None
    parent: Glob | None = None
    sha256: str = ""

    @classmethod
    def parse(cls, fields: Sequence[str]) -> Self:
        """The entry of a line's fields. Raises ValueError with a reason."""
        script = [field for field in fields[1:] if field.partition(":")[0] not in _CONDITIONS]
        conditions = dict(
            field.split(":", 1)
            for field in fields[1:]
            if field.partition(":")[0] in _CONDITIONS and ":" in field
        )
        if not fields[0].startswith(("/", "*", "?", "[", "\\", ELSEWHERE, KERNEL)):
            raise ValueError(f"{fields[0][:80]!r} is not an absolute path")
        sha256 = conditions.get("sha256", "")
        if sha256 and not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256[:80]!r} is not a SHA-256 in hexadecimal")
        user, parent = conditions.get("user"), conditions.get("parent")
        return cls(
            Glob(fields[0]),
            Glob(" ".join(script)) if script else None,
            Glob(user) if user else None,
            Glob(parent) if parent else None,
            sha256,
        )

    @property
    def conditional(self) -> bool:
        return bool(self.user or self.parent or self.sha256)

    def names(self, image: Image) -> bool:
        """Whether this entry is about *image*, its conditions aside."""
        if self.script is not None:
            fits = image.script is None or self.script.matches(image.script)
            # What ``#!/usr/bin/env`` runs next is judged by itself.
            return fits and (image.executable in _ENV or self.executable.matches(image.executable))
        if image.script:
            return image.script.startswith("/") and self.executable.matches(image.script)
        return self.executable.matches(image.executable)

    def holds(self, facts: Facts) -> bool:
        """Whether *facts* fulfil the conditions. What is not known does not."""
        return (
            (self.user is None or (bool(facts.user) and self.user.matches(facts.user)))
            and (self.parent is None or (bool(facts.parent) and self.parent.matches(facts.parent)))
            and (not self.sha256 or self.sha256 == facts.sha256)
        )

    def leading(self, real: Callable[[str], str]) -> Entry:
        """This entry, of which what its paths lead to counts, too; see :meth:`Glob.leading`."""
        return replace(
            self,
            executable=self.executable.leading(real),
            script=self.script and self.script.leading(real),
            parent=self.parent and self.parent.leading(real),
        )

    def allows(self, image: Image) -> bool:
        """Whether *image* is what this entry expects, should its conditions hold."""
        return self.names(image)


def begins_entry(word: str) -> bool:
    """Whether *word* is the first one of an entry in the check file."""
    return word.startswith(("/", ELSEWHERE, KERNEL))


class Programs:
    """The entries of a list, found by the path of an executable or of a script."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._literal: dict[str, list[Entry]] = {}
        self._others: list[Entry] = []
        for entry in entries:
            glob = entry.executable
            if glob.literal is None:
                self._others.append(entry)
                continue
            self._literal.setdefault(glob.literal, []).append(entry)
            if glob.leads_to:
                self._literal.setdefault(glob.leads_to, []).append(entry)

    def has(self, executable: str) -> bool:
        """Whether an entry names *executable* itself, or a link to it, by no glob."""
        return executable in self._literal

    def about(self, image: Image) -> list[Entry]:
        """The entries that name *image*. Their conditions are still to be held against the facts."""
        candidates = [*self._literal.get(image.executable, ()), *self._others]
        if image.executable in _ENV:
            candidates += (one for entries in self._literal.values() for one in entries if one.script)
        if image.script:
            candidates += self._literal.get(image.script, ())
        return [entry for entry in candidates if entry.names(image)]


def listed(entries: Sequence[Entry]) -> bool | None:
    """What :meth:`Programs.about` found means: on the list, or not; None: it depends on the facts."""
    if not entries:
        return False
    return None if all(entry.conditional for entry in entries) else True


def kernel_thread(name: str) -> Image:
    """What a kernel thread counts as: its name without the numbers, as ``kernel:kworker``."""
    found = _KERNEL_NAME.match(name)
    return Image(f"{KERNEL}{found[0] if found else name}")


def of_file(path: str, applets: Sequence[str] = ()) -> list[Image]:
    """
    What counts as the program at *path* when it runs by itself; *applets* are the names that it has.

    Of an interpreter other than a shell nothing: what it runs is its script, and by itself it runs what
    somebody types or sends.
    """
    if applets:
        return [Image(path, name) for name in (*applets, *(f"-{name}" for name in applets if is_shell(name)))]
    return [] if is_interpreter(path) and not is_shell(path) else [Image(path)]


def is_loader(path: str) -> bool:
    """Whether *path* is where a system has its dynamic loader."""
    return _LOADER.fullmatch(path) is not None


class Opening:
    """
    The files that one process opens to execute them, in order, told apart by programs.

    The kernel opens a script, then its interpreter (which may be a script again), then the program's dynamic
    loader. So a program ends a group, and a loader behind it is part of it. A loader that does not follow a
    program was executed itself, or its program has no file.
    """

    __slots__ = ("_after_program", "_last", "_scripts", "ahead")

    def __init__(self) -> None:
        self._scripts: list[Opened] = []
        self._last: Opened | None = None
        self._after_program = False
        self.ahead = 0
        """How many groups were told before the event that says that they were executed."""

    def add(self, opened: Iterable[Opened]) -> list[tuple[Opened, ...]]:
        """The groups that are complete with *opened*: scripts, and the program that runs them."""
        groups: list[tuple[Opened, ...]] = []
        for one in opened:
            before, self._last = self._last, one
            if before is not None and before.path == one.path and before.device != one.device:
                continue  # an overlay opens the file of the layer below, too
            if one.head[:4] != b"\x7fELF":
                self._scripts.append(one)
                self._after_program = False
            elif self._after_program and is_loader(one.path):
                self._after_program = False
            else:
                groups.append((*self._scripts, one))
                self._scripts = []
                self._after_program = not is_loader(one.path)
        return groups


def _quoted_script(script: str) -> str:
    return quote(script) if script.startswith("/") else " ".join(map(quote, script.split(" ", 1)))
