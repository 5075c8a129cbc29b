"""Scans of the file system, and SHA-256 of files, by the scan process (mender_monitor_py/scan.py)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import NamedTuple

from mender_monitor_py.host.child import ask
from mender_monitor_py.setuidlist import Found

MAX_FOUND = 10_000  # what a scan tells at most; see setuidscan.py


class Scanned(NamedTuple):
    """
    What a scan came by. *found* may be more than it told; *unread* folders could not be read, for example
    the *problems*.
    """

    files: int
    folders: int
    found: int
    unread: int
    problems: tuple[str, ...]


class Hashed(NamedTuple):
    """
    A file that was read: its SHA-256, and the state that it had then; times in nanoseconds.

    *target* is what the path is a link to; *error* is empty, ``missing``, ``kind: …`` for what is no file, or
    why it could not be read. With an error the rest means nothing.
    """

    path: str
    error: str = ""
    sha256: str = ""
    target: str = ""
    inode: int = 0
    device: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    ctime: int = 0


class Scanner:
    """
    Starts scan processes. *progress* is called with what was done and what there is to do (0: not known).

    All methods raise UnknownError when there can be no such process.
    """

    def __init__(self) -> None:
        self.progress: Callable[[int, int], None] = lambda done, all_of_them: None

    async def setuid(
        self,
        walks: Sequence[str],
        stop: Collection[str],
        exclude: str,
        bits: int,
        *,
        capabilities: bool,
        idle: bool = True,
    ) -> tuple[list[Found], Scanned]:
        """
        The executables with one of *bits*, or with capabilities, in the trees *walks*.

        It does not go into the folders *stop*, nor into what the regular expression *exclude* matches.
        """
        request = {
            "do": "setuid",
            "walks": walks,
            "stop": list(stop),
            "exclude": exclude,
            "bits": bits,
            "caps": capabilities,
            "idle": idle,
        }
        found: list[Found] = []
        summary = Scanned(0, 0, 0, 0, ())
        async with aclosing(ask("scan", request)) as answers:
            async for answer in answers:
                if isinstance(answer, list):
                    found.append(Found(*answer))
                elif "folders" in answer:
                    summary = Scanned(**{**answer, "problems": tuple(answer["problems"])})
                else:
                    self.progress(answer["files"], 0)
        return found, summary

    async def hash(
        self, paths: Sequence[str], *, rate: int = 0, idle: bool = True
    ) -> AsyncGenerator[Hashed, None]:
        """Each of *paths* in turn, read at *rate* bytes a second; 0: as fast as it goes."""
        request = {"do": "hash", "files": paths, "rate": rate, "idle": idle}
        async with aclosing(ask("scan", request)) as answers:
            async for answer in answers:
                if answer:
                    yield Hashed(*answer)

    async def hash_all(self, paths: Sequence[str]) -> list[Hashed]:
        """All of *paths*, in their order, on all processors."""
        found: dict[str, Hashed] = {}
        processes = len(os.sched_getaffinity(0))

        async def work(share: Sequence[str]) -> None:
            async with aclosing(self.hash(share)) as results:
                async for one in results:
                    found[one.path] = one
                    self.progress(len(found), len(paths))

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(processes, len(paths))):
                    group.create_task(work(paths[number::processes]))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [found[path] for path in paths if path in found]
