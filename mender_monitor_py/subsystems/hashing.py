"""What the content of files is: read one after the other, in the order in which that was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing

from mender_monitor_py.commandline import printable
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.filestates import executable
from mender_monitor_py.host.scanner import Hashed, Scanner
from mender_monitor_py.integritylist import Executable
from mender_monitor_py.subsystems.expected import unread

_BATCH = 1000


class Lane:
    """
    One queue of files, read at *rate* bytes a second (0: as fast as it goes) by one process at a time.

    *hashed* is called with each result, *ended* when nothing is left, with the reason if that was no success.
    """

    def __init__(
        self, scanner: Scanner, rate: int, hashed: Callable[[Hashed], None], ended: Callable[[str], None]
    ) -> None:
        self._scanner = scanner
        self._rate = rate
        self._hashed = hashed
        self._ended = ended
        self._waiting: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and nothing is being read."""
        return self._task is None

    def add(self, paths: Iterable[str]) -> None:
        """Have *paths* read; what waits already is read once."""
        self._waiting.update(dict.fromkeys(paths))
        if self._waiting and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = list(self._waiting)[:_BATCH]
                for path in batch:
                    del self._waiting[path]
                # With a rate it is what nobody waits for.
                results = self._scanner.hash(batch, rate=self._rate, idle=bool(self._rate))
                async with aclosing(results):
                    async for result in results:
                        if result.path not in self._waiting:  # else it changed meanwhile
                            self._hashed(result)
            reason = ""
        except UnknownError as error:
            self._waiting.clear()
            reason = str(error)
        self._task = None
        self._ended(reason)


def readable(results: Iterable[Hashed]) -> list[Executable]:
    """
    The executables in *results*, sorted, without those that are gone or no files.

    Raises UnknownError where others cannot be read and we are not root.
    """
    found, problems = [], []
    for one in results:
        if not one.error:
            found.append(executable(one))
        elif one.error != "missing" and not one.error.startswith("kind: "):
            problems.append(f"{printable(one.path)}: {one.error}")
    if problems:
        unread(f"{len(problems)} files", problems[0])
    return sorted(found)
