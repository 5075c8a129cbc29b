"""The programs on the disk of a device, whether they run or not, and which of them a package brought."""

# ruff: noqa: PTH112, PTH114, PTH116, PTH119, PTH208 - pathlib takes several times as long, and these are thousands of files

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

# Where only root and packages put programs. /home, /root, /srv, /tmp and /var are no such places.
FOLDERS = ("/bin", "/sbin", "/lib", "/usr", "/etc", "/opt")
MAX_PROGRAMS = 20_000
_BELOW = tuple(f"{folder}/" for folder in FOLDERS)
_DPKG_INFO = "var/lib/dpkg/info"
_BUSYBOX = "busybox"


class Installed(NamedTuple):
    """
    A file that may be executed, by its path without links. *applets* are the names that lead to it, where it
    is a program that does what its name says: busybox.
    """

    path: str
    applets: tuple[str, ...] = ()


def installed(root: Path = Path("/")) -> list[Installed]:
    """
    The programs and executable scripts in :data:`FOLDERS` and of packages, sorted, at most MAX_PROGRAMS.

    Libraries are none, though some can be executed. What cannot be read is left out.
    """
    top = str(root).rstrip("/")
    paths: set[str] = set()
    links: dict[str, set[str]] = {}
    for path, mode in _files(top, _folders(top)):
        if stat.S_ISLNK(mode):
            if _BUSYBOX in (target := os.path.realpath(f"{top}{path}")):
                links.setdefault(target.removeprefix(top), set()).add(os.path.basename(path))
        elif _is_program(path, mode):
            paths.add(path)
    elsewhere = (path for path in package_files(root) if not path.startswith(_BELOW))
    paths |= {path for path in elsewhere if _is_there(top, path)}
    return [Installed(path, tuple(sorted(links.get(path, ())))) for path in sorted(paths)[:MAX_PROGRAMS]]


def package_files(root: Path = Path("/")) -> set[str]:
    """
    Every path that dpkg's books have, without links in their folders; empty where there is no dpkg.
    """
    top = str(root).rstrip("/")
    found: set[str] = set()
    real: dict[str, str] = {}
    for book in sorted((root / _DPKG_INFO).glob("*.list")):
        try:
            lines = book.read_bytes().splitlines()
        except FileNotFoundError:  # a package was removed meanwhile
            continue
        for line in lines:
            folder, _, name = os.fsdecode(line).rpartition("/")
            if folder not in real:
                real[folder] = os.path.realpath(f"{top}{folder}").removeprefix(top).rstrip("/")
            found.add(f"{real[folder]}/{name}")
    return found


def _folders(top: str) -> Iterator[str]:
    """Each of FOLDERS that is no link to another of them."""
    for folder in FOLDERS:
        if os.path.isdir(f"{top}{folder}") and not os.path.islink(f"{top}{folder}"):
            yield folder


def _files(top: str, folders: Iterable[str]) -> Iterator[tuple[str, int]]:
    """All that is below *folders* on their own file systems, folders aside, with its mode."""
    waiting = [*folders]
    devices = {os.stat(f"{top}{folder}").st_dev for folder in waiting}
    while waiting:
        folder = waiting.pop()
        try:
            names = os.listdir(f"{top}{folder}")
        except OSError:
            continue
        for name in names:
            path = f"{folder}/{name}"
            status = _lstat(f"{top}{path}")
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield path, status.st_mode
            elif status.st_dev in devices:
                waiting.append(path)


def _is_there(top: str, path: str) -> bool:
    status = _lstat(f"{top}{path}")
    return status is not None and _is_program(path, status.st_mode)


def _lstat(path: str) -> os.stat_result | None:
    """The state of *path*; None: it is gone, as the files of editors and package managers are soon."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_program(path: str, mode: int) -> bool:
    name = os.path.basename(path)
    library = name.endswith(".so") or ".so." in name
    return stat.S_ISREG(mode) and bool(mode & 0o111) and not library
