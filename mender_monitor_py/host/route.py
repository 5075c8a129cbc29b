"""The way from the root to a file: every name on it that may come to mean something else."""

from __future__ import annotations

import os
from pathlib import Path

_MOST_LINKS = 40  # MAXSYMLINKS of the kernel


def places(path: Path) -> list[tuple[Path, str]]:
    """
    The folders and the names in them that the kernel looks up for *path*, symbolic links followed.

    It ends where something is missing, unreadable or not a folder, or with a circle of links.
    """
    found: list[tuple[Path, str]] = []
    folder = Path("/")
    names = list(reversed(path.parts[1:]))
    links = 0
    while names:
        name = names.pop()
        if name == "..":
            folder = folder.parent
            continue
        found.append((folder, name))
        here = folder / name
        try:
            target = here.readlink()
        except FileNotFoundError:
            break
        except OSError:  # EINVAL: no link; anything else is met when the file is opened
            folder = here
            continue
        links += 1
        if links > _MOST_LINKS:
            break
        if target.is_absolute():
            folder = Path("/")
        names.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
    return found


def siblings(path: Path) -> list[os.DirEntry[str]]:
    """The entries of the folder that *path* is in. None there: none."""
    try:
        with os.scandir(path.parent) as entries:
            return list(entries)
    except OSError:
        return []
