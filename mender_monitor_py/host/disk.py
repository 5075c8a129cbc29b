"""How full the file system under a path is."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

from mender_monitor_py.errors import UnknownError

PATIENCE_S = 10.0


async def used_percent(path: str) -> int:
    """
    The use of the file system that holds *path*, in percent and rounded up, as df(1) gives it.

    Raises UnknownError when the path is not there, or when its file system does not answer for
    PATIENCE_S seconds: that of a network server that is gone never does.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[os.statvfs_result | Exception] = loop.create_future()

    def ask() -> None:
        found: os.statvfs_result | Exception
        try:
            found = os.statvfs(path)
        except (OSError, ValueError) as error:
            found = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell, found)

    def tell(found: os.statvfs_result | Exception) -> None:
        if not answer.done():
            answer.set_result(found)

    # A thread of its own, and a daemon: one that hangs in the kernel must not keep the program from ending.
    threading.Thread(target=ask, daemon=True).start()
    try:
        space = await asyncio.wait_for(answer, PATIENCE_S)
    except TimeoutError:
        raise UnknownError(f"{path}: its file system does not answer") from None
    if isinstance(space, Exception):
        raise UnknownError(f"{path}: {space}") from space
    return percent(space)


def percent(space: os.statvfs_result) -> int:
    """What df(1) prints as Use%: of what ordinary users can have, rounded up; 0 for a pseudo file system."""
    used = space.f_blocks - space.f_bfree
    total = used + space.f_bavail
    return -(-100 * used // total) if total else 0
