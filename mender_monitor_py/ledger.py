"""
Transactions of what is known, one after the other, in a thread of their own.

What arrives while one is on its way to the disk shares the next one. What cannot be written waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from mender_monitor_py.errors import OutboxError
from mender_monitor_py.model import CheckId
from mender_monitor_py.outbox import Changes

LAZY_S = 900.0
RETRY_S = 5.0

log = logging.getLogger(__name__)


class Store(Protocol):
    """The part of the outbox that is needed here."""

    def commit(self, changes: Changes) -> None: ...

    def states(self) -> Mapping[tuple[CheckId, str], str]: ...

    def memories(self) -> Mapping[CheckId, str]: ...


class Ledger:
    """
    Writes *changes* to *store*.

    *take_lazy* adds what may wait for :data:`LAZY_S`; *queued* is called after each transaction, *changed*
    when :attr:`error` is another.
    """

    def __init__(
        self,
        store: Store,
        take_lazy: Callable[[], None],
        queued: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._take_lazy = take_lazy
        self._queued = queued
        self._changed = changed
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._committing: asyncio.Task[None] | None = None
        self._stored: asyncio.Future[None] | None = None
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.changes = Changes()
        self.error = ""

    def commit_soon(self) -> asyncio.Future[None]:
        """Commit what waits; the future is done when it is stored, or has OutboxError."""
        if self._stored is None:
            self._stored = asyncio.get_running_loop().create_future()
        if self._committing is None and not self._closing:
            self._committing = asyncio.get_running_loop().create_task(self._commit_all())
        return self._stored

    def commit_lazily(self) -> None:
        """Commit within :data:`LAZY_S`."""
        if self._lazy_timer is None and not self._closing:
            self._lazy_timer = asyncio.get_running_loop().call_later(LAZY_S, self._lazy_due)

    async def close(self) -> None:
        """Store all that is known, once, and end."""
        self._closing = True
        if self._lazy_timer is not None:
            self._lazy_timer.cancel()
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
        self._take_lazy()
        if self.changes or self.error:
            await self._commit()
            if self.error:
                log.error("what could not be stored is lost")
        self._worker.shutdown()

    async def run_in_worker(self, function: Callable[[], None]) -> None:
        """Run *function* in the thread that writes, in order with the transactions."""
        await asyncio.get_running_loop().run_in_executor(self._worker, function)

    async def _commit_all(self) -> None:
        """Commit until nothing waits; what arrives meanwhile shares the next transaction."""
        try:
            while self.changes or self.error:
                await self._commit()
                if self.error:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._committing = None

    async def _commit(self) -> None:
        """One transaction. What cannot be written is held by the outbox for the next one."""
        changes, self.changes = self.changes, Changes()
        stored, self._stored = self._stored, None
        write = asyncio.get_running_loop().run_in_executor(self._worker, self._store.commit, changes)
        try:
            await asyncio.shield(write)
        except OutboxError as error:
            if self.error != str(error):
                log.error("%s; it is tried again each %d s", error, RETRY_S)
                self.error = str(error)
                self._changed()
            if stored is not None and not stored.done():
                stored.set_exception(error)
                stored.exception()  # looked at, so that nobody has to wait for it
            return
        if self.error:
            log.info("the outbox can be written again")
            self.error = ""
            self._changed()
        if stored is not None and not stored.done():
            stored.set_result(None)
        self._queued()

    def _lazy_due(self) -> None:
        self._lazy_timer = None
        self._take_lazy()
        if self.changes:
            self.commit_soon()
