"""The way to a bus that is not always there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mender_monitor_py.host.busconnection import BusLostError, Connection, socket_path
from mender_monitor_py.host.inotify import IN_ATTRIB, IN_CREATE, IN_MOVED_TO, Event, Inotify

log = logging.getLogger(__name__)

ADDRESS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"
DEFAULT_ADDRESS = "unix:path=/run/dbus/system_bus_socket"

_FIRST_DELAY_S = 0.02
# The kernel tells when the socket's folder changes; the long delay is for what it cannot see, such as a
# mount over the folder.
_LONGEST_DELAY_S = 30.0
_LONGEST_BLIND_DELAY_S = 1.0
_STEADY_S = 5.0


def system_bus_address() -> str:
    return os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


class Door:
    """
    Opens a connection as soon as the bus at *address* takes one, over and over.

    Between attempts it waits for the folder of the socket to change. The delays grow, also when
    connections are made but do not last.
    """

    def __init__(self, address: str, inotify: Inotify | None) -> None:
        self._address = address
        self._inotify = inotify
        self._delay = _FIRST_DELAY_S
        self._opened_at = 0.0

    async def enter(
        self,
        on_message: Callable[[bytes], None],
        on_failure: Callable[[BusLostError], None],
        *,
        keep: int,
        descriptors: bool = False,
    ) -> Connection:
        """A new connection, however long it takes; each failed attempt is told to *on_failure*."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._opened_at > _STEADY_S:
            self._delay = _FIRST_DELAY_S
        else:
            await asyncio.sleep(self._delay)
        connection = None
        changed = asyncio.Event()
        with self._watch(changed) as longest:
            while connection is None:
                changed.clear()
                try:
                    connection = await Connection.open(
                        self._address, on_message, keep=keep, descriptors=descriptors
                    )
                except BusLostError as error:
                    on_failure(error)
                    await self._pause(changed, longest)
        self._delay = min(self._delay * 2, _LONGEST_BLIND_DELAY_S)
        self._opened_at = loop.time()
        return connection

    async def _pause(self, changed: asyncio.Event, longest: float) -> None:
        try:
            async with asyncio.timeout(self._delay):
                await changed.wait()
            # it is bound, but perhaps not yet listened to
            self._delay = _FIRST_DELAY_S
            await asyncio.sleep(self._delay)
        except TimeoutError:
            self._delay = min(self._delay * 2, longest)

    @contextlib.contextmanager
    def _watch(self, changed: asyncio.Event) -> Iterator[float]:
        """Sets *changed* when the socket's folder changes; yields the longest delay between attempts."""
        watch = None
        folder = _watchable_folder(self._address)
        if self._inotify is not None and folder is not None:

            def tell(event: Event) -> None:
                changed.set()

            try:
                watch = self._inotify.watch(folder, IN_CREATE | IN_MOVED_TO | IN_ATTRIB, tell)
            except OSError as error:
                log.warning("%s is not watched for the bus's return: %s", folder, error)
        try:
            yield _LONGEST_BLIND_DELAY_S if watch is None else _LONGEST_DELAY_S
        finally:
            if watch is not None:
                watch.cancel()


def _watchable_folder(address: str) -> Path | None:
    """The folder of the bus's socket, or the nearest one above it that exists."""
    try:
        path = socket_path(address)
    except BusLostError:
        return None
    if path.startswith("\0"):  # an abstract socket is in no folder
        return None
    return next(parent for parent in Path(path).absolute().parents if parent.is_dir())
