"""The enabled checks, each in a task of its own that nothing but its own file can disturb."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mender_monitor_py.catalog import Catalog
from mender_monitor_py.errors import MonitorError, UnknownError
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CheckId
from mender_monitor_py.recorder import Recorder
from mender_monitor_py.subsystems.base import Check, Definition

BACKOFF_S = (1.0, 60.0)
HEALTHY_S = 60.0
STOP_S = 1.5

log = logging.getLogger(__name__)


@dataclass
class Running:
    """A check that is enabled: its task, or the reason why it has none."""

    definition: Definition | None
    task: asyncio.Task[None] | None = None
    error: str = ""
    broken: str = ""


class Supervisor:
    """
    Makes the running checks those that the catalog has enabled.

    *changed* is called when the set of checks, or the reason why one does not run, is another.
    """

    def __init__(self, catalog: Catalog, recorder: Recorder, host: Host, changed: Callable[[], None]) -> None:
        self._catalog = catalog
        self._recorder = recorder
        self._host = host
        self._changed = changed
        self._running: dict[CheckId, Running] = {}
        self._lock = asyncio.Lock()

    def __iter__(self) -> Iterator[tuple[CheckId, Running]]:
        return iter(sorted(self._running.items()))

    @property
    def definitions(self) -> list[Definition]:
        """Of the checks that run."""
        return [r.definition for _, r in self if r.definition is not None and not r.error]

    async def reconcile(self, *, fresh: bool = False) -> None:
        """
        Start, stop and restart what has changed in the catalog; *fresh*: restart all.

        Raises CatalogError when the folders cannot be read.
        """
        async with self._lock:
            enabled = self._catalog.enabled()
            for check in set(self._running) - set(enabled):
                await self._stop(check)
                del self._running[check]
            for check in enabled:
                await self._update_alone(check, fresh)
            known = set(self._catalog.available()) | set(enabled)
            for check in set(self._recorder.known_checks()) - known:
                self._recorder.forget(check)
            self._changed()

    async def stop(self) -> None:
        """End all checks."""
        async with self._lock:
            await asyncio.gather(*(self._stop(check) for check in self._running))
            self._running.clear()

    async def _update_alone(self, check: CheckId, fresh: bool) -> None:
        """Whatever is wrong with one check, the others get their turn."""
        update = asyncio.get_running_loop().create_task(self._update(check, fresh))
        await asyncio.wait([update])
        error = update.exception()
        if error is not None:
            log.error("%s does not run", check, exc_info=error)
            await self._stop(check)
            self._running[check] = Running(None, error=f"{type(error).__name__}: {error}")

    async def _update(self, check: CheckId, fresh: bool) -> None:
        before = self._running.get(check)
        try:
            definition = await self._catalog.load(check)
            if before is not None and before.definition == definition and not fresh:
                return
            built = self._catalog.build(definition)
        except MonitorError as error:
            reason = str(error)
            if before is None or before.error != reason or before.task is not None:
                log.error("%s does not run: %s", check, reason)
            await self._stop(check)
            self._running[check] = Running(None, error=reason)
            return
        await self._stop(check)
        running = Running(definition)
        self._running[check] = running
        running.task = asyncio.get_running_loop().create_task(self._run(built, running), name=str(check))

    async def _stop(self, check: CheckId) -> None:
        running = self._running.get(check)
        if running is None or running.task is None:
            return
        running.task.cancel()
        _, pending = await asyncio.wait([running.task], timeout=STOP_S)
        if pending:
            log.error("%s did not end in time", check)
        running.task = None
        self._recorder.stop(check)

    async def _run(self, check: Check, running: Running) -> None:
        """Run one check for ever: whatever it does, it is started again, ever more slowly."""
        report = self._recorder.start(check.id, check.expires_after)
        loop = asyncio.get_running_loop()
        wait = BACKOFF_S[0]
        while True:
            started = loop.time()
            attempt = loop.create_task(check.run(self._host, report), name=f"{check.id} run")
            try:
                await asyncio.wait([attempt])
            finally:
                await _end(attempt)
            if loop.time() - started >= HEALTHY_S:
                wait = BACKOFF_S[0]
            self._judge(check.id, attempt, running, report.unknown)
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF_S[1])

    def _judge(
        self, check: CheckId, attempt: asyncio.Task[None], running: Running, unknown: Callable[[str], None]
    ) -> None:
        error = None if attempt.cancelled() else attempt.exception()
        if isinstance(error, UnknownError):
            unknown(str(error))
            return
        reason = f"{type(error).__name__}: {error}" if error is not None else "it ended by itself"
        if running.broken != reason:
            log.error("%s stopped and is started again: %s", check, reason, exc_info=error)
            running.broken = reason
            self._changed()
        unknown(reason)


async def _end(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
