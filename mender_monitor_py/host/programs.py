"""The programs on the disk of a device, whether they run or not, and which of them a package brought."""

# ruff: noqa: PTH112, PTH114, PTH116, PTH119, PTH123 - pathlib takes several times as long, and these are thousands of files

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
    for path in _files(top, _folders(top)):
        status = os.lstat(f"{top}{path}")
        if stat.S_ISLNK(status.st_mode):
            if _BUSYBOX in (target := os.path.realpath(f"{top}{path}")):
                links.setdefault(target.removeprefix(top), set()).add(os.path.basename(path))
        elif _is_program(path, status.st_mode):
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
        with open(book, "rb") as file:
            for line in file.read().splitlines():
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


def _files(top: str, folders: Iterable[str]) -> Iterator[str]:
    """All that is below *folders* on their own file systems, folders aside."""
    waiting = [*folders]
    devices = {os.stat(f"{top}{folder}").st_dev for folder in waiting}
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(f"{top}{folder}") as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}"
                    if not entry.is_dir(follow_symlinks=False):
                        yield path
                    elif entry.stat(follow_symlinks=False).st_dev in devices:
                        waiting.append(path)
        except OSError:
            continue


def _is_there(top: str, path: str) -> bool:
    try:
        return _is_program(path, os.lstat(f"{top}{path}").st_mode)
    except OSError:
        return False


def _is_program(path: str, mode: int) -> bool:
    name = os.path.basename(path)
    library = name.endswith(".so") or ".so." in name
    return stat.S_ISREG(mode) and bool(mode & 0o111) and not library
