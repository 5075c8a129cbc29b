"""
What the checks report, turned into states, alerts and one transaction.

Everything that is reported in one turn of the event loop, and while a transaction is on its way to the disk,
is committed together. A change that no alert depends on (a log position, a renewed expiration) waits for the
next alert, for the end, or for :data:`LAZY_S`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from mender_monitor_py import alertstate
from mender_monitor_py.alertstate import Limits, State
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.timer import Alarm
from mender_monitor_py.model import OK, Alert, CheckId, Details, Observation, Stamp
from mender_monitor_py.outbox import Changes

LAZY_S = 900.0
RETRY_S = 5.0
MAX_FINDINGS = 1000

log = logging.getLogger(__name__)


class Store(Protocol):
    """The part of the outbox that is needed here."""

    def commit(self, changes: Changes) -> None: ...

    def states(self) -> Mapping[tuple[CheckId, str], str]: ...

    def memories(self) -> Mapping[CheckId, str]: ...


@dataclass
class Record:
    """What is known of one check."""

    limits: Limits
    running: bool = False
    states: dict[str, State] = field(default_factory=dict)
    memory: str = ""
    unknown: str = ""
    seen: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    told_full: bool = False


class Recorder:
    """
    Keeps the states of all checks.

    *queued* is called after a transaction that holds alerts; *changed* when a check's state is another.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        limits: Limits,
        queued: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._defaults = limits
        self._queued = queued
        self._changed = changed
        self._records: dict[CheckId, Record] = {}
        self._changes = Changes()
        self._lazy_states: set[tuple[CheckId, str]] = set()
        self._lazy_memories: set[CheckId] = set()
        self._silent_until: dict[CheckId, float] = {}
        self._alarm = Alarm(self._tick)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._committing: asyncio.Task[None] | None = None
        self._stored: asyncio.Future[None] | None = None
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.error = ""

    def load(self) -> None:
        """Read what earlier runs stored. Raises OutboxError."""
        now = self._clock.now()
        for (check, key), text in self._store.states().items():
            try:
                state, saved = alertstate.decode(text)
            except ValueError as error:
                log.warning("the stored state of %s is given up: %s", check, error)
                continue
            self._record(check).states[key] = alertstate.rebase(state, saved, now)
        for check, memory in self._store.memories().items():
            self._record(check).memory = memory
        for check, record in self._records.items():
            self._prune(check, record, now.boottime)

    def set_limits(self, limits: Limits) -> None:
        """Other settings: they count for the checks that are started from now on."""
        self._defaults = limits

    def set_silences(self, until: Mapping[CheckId, float]) -> None:
        """These checks are silent until then (CLOCK_BOOTTIME); another one tells what it has not told."""
        over = set(self._silent_until) - set(until)
        self._silent_until = dict(until)
        for check in over:
            self._catch_up(check)
        self._schedule()
        self._changed()

    def silent(self, check: CheckId) -> bool:
        """Whether nothing is told of *check* for now."""
        return self._silent_until.get(check, 0.0) > self._clock.boottime()

    def start(self, check: CheckId, expires_after: float | None) -> CheckReport:
        """A check runs from now on: its events expire after *expires_after* seconds."""
        record = self._record(check)
        record.limits = replace(self._defaults, expires_after=expires_after)
        record.running = True
        record.unknown = ""
        record.seen = False
        record.notes = {}
        self._schedule()
        return CheckReport(self, check, record)

    def stop(self, check: CheckId) -> None:
        """A check does not run any more; what is known of it is kept for when it is enabled again."""
        self._record(check).running = False
        self._schedule()
        self._changed()

    def forget(self, check: CheckId) -> None:
        """A check was deleted: close what the server holds of it, and keep nothing."""
        record = self._records.pop(check, None)
        if record is None:
            return
        now = self._clock.now()
        for key, state in record.states.items():
            self._queue(alertstate.close(state, "The check was deleted"), now)
            self._changes.states[check, key] = None
            self._lazy_states.discard((check, key))
        self._lazy_memories.discard(check)
        self._changes.memories[check] = None
        self._commit_soon()
        self._schedule()
        self._changed()

    def known_checks(self) -> Collection[CheckId]:
        """All checks of which something is kept."""
        return tuple(self._records)

    def record(self, check: CheckId) -> Record | None:
        return self._records.get(check)

    def tell(self, alert: Alert) -> None:
        """Queue an alert of the monitor itself."""
        self._queue((alert,), self._clock.now())

    def stop_observing(self) -> None:
        """The daemon ends, perhaps because the device does: what is seen from now on is not news."""
        self._closing = True

    async def close(self) -> None:
        """Store all that is known, once, and end."""
        self._closing = True
        self._alarm.close()
        if self._lazy_timer is not None:
            self._lazy_timer.cancel()
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
        self._take_lazy()
        if self._changes or self.error:
            await self._commit()
            if self.error:
                log.error("what could not be stored is lost")
        self._worker.shutdown()

    async def run_in_worker(self, function: Callable[[], None]) -> None:
        """Run *function* in the thread that writes to the outbox, in order with the transactions."""
        await asyncio.get_running_loop().run_in_executor(self._worker, function)

    # What a running check reports, by way of its CheckReport.

    def observed(self, check: CheckId, record: Record, seen: Observation, memory: str | None) -> None:
        if self._closing or not record.running:
            return
        now = self._clock.now()
        before = record.states.get(seen.key)
        if memory is not None:
            record.memory = memory
            self._lazy_memories.add(check)
        if before is None and seen.key and not seen.bad:
            self.can_look(record)
            return
        if before is None and not self._has_room(check, record, now.boottime):
            return
        silent = self.silent(check)
        after, alerts = alertstate.observe(
            before or State(), seen, now.boottime, record.limits, silent=silent
        )
        self._keep(check, record, seen.key, after)
        if alerts:
            self._queue(alerts, now)
            self._save(check, record, seen.key)
        if alerts or silent or record.unknown or not record.seen:
            record.unknown, record.seen = "", True
            self._changed()
        self._schedule()

    async def told(self, check: CheckId, record: Record, seen: Observation) -> None:
        if self._closing or not record.running:
            return
        now = self._clock.now()
        silent = self.silent(check)
        before = record.states.get(seen.key, State())
        if not silent:
            self._queue((seen.alert(),), now)
        if seen.key in record.states or self._has_room(check, record, now.boottime):
            told = before.told if silent else seen.level
            state = State(seen.without_lines(), now.boottime, now.boottime, told=told)
            self._keep(check, record, seen.key, state)
            self._save(check, record, seen.key)
        self._changed()
        self._schedule()
        await self._commit_soon()

    def ended(self, check: CheckId, record: Record, keep: Collection[str], cleared: str) -> None:
        kept = set(keep)
        for key, state in list(record.states.items()):
            last = state.last
            if state.bad and last is not None and not last.event and key not in kept:
                gone = replace(
                    last,
                    level=OK,
                    subject=replace(last.subject, status=last.cleared_status or last.subject.status),
                    details=Details(cleared),
                )
                self.observed(check, record, gone, None)

    def cannot_look(self, check: CheckId, record: Record, reason: str) -> None:
        if record.unknown != reason:
            if not record.unknown:
                log.warning("%s: unknown: %s", check, reason)
            record.unknown = reason
            self._changed()

    def can_look(self, record: Record) -> None:
        if record.unknown or not record.seen:
            record.unknown, record.seen = "", True
            self._changed()

    def noted(self, record: Record, topic: str, text: str) -> None:
        if record.notes.get(topic, "") != text:
            record.notes[topic] = text
            self._changed()

    def remembered(self, check: CheckId, record: Record, memory: str) -> None:
        if record.memory != memory:
            record.memory = memory
            self._lazy_memories.add(check)
            self._save_lazily()

    def _record(self, check: CheckId) -> Record:
        return self._records.setdefault(check, Record(self._defaults))

    def _has_room(self, check: CheckId, record: Record, now: float) -> bool:
        """Whether one more finding can be kept; what is over gives way."""
        if len(record.states) < MAX_FINDINGS:
            return True
        self._prune(check, record, now)
        if len(record.states) < MAX_FINDINGS:
            return True
        if not record.told_full:
            record.told_full = True
            log.error("%s: more than %d findings; further ones are not told", check, MAX_FINDINGS)
        return False

    def _prune(self, check: CheckId, record: Record, now: float) -> None:
        """Give up the findings that are over, once they cannot be part of flapping any more."""
        for key, state in list(record.states.items()):
            if key and alertstate.tick(state, now, record.limits)[0].idle:
                del record.states[key]
                self._lazy_states.discard((check, key))
                self._changes.states[check, key] = None

    def _keep(self, check: CheckId, record: Record, key: str, state: State) -> None:
        record.states[key] = state
        if state.bad or state.changes:
            self._lazy_states.add((check, key))
            self._save_lazily()

    def _save(self, check: CheckId, record: Record, key: str) -> None:
        """The state and the memory go with the alert."""
        state = record.states.get(key)
        if state is not None:
            self._changes.states[check, key] = alertstate.encode(state, self._clock.now())
        self._lazy_states.discard((check, key))
        if check in self._lazy_memories:
            self._lazy_memories.discard(check)
            self._changes.memories[check] = record.memory

    def _queue(self, alerts: Iterable[Alert], now: Stamp) -> None:
        waiting = [(alert, now) for alert in alerts]
        if waiting:
            self._changes.alerts += waiting
            self._commit_soon()

    def _tick(self) -> None:
        """Something expires, or flapping or a silence ends."""
        now = self._clock.now()
        for check in [check for check, until in self._silent_until.items() if until <= now.boottime]:
            del self._silent_until[check]
            self._catch_up(check)
        for check, record in self._records.items():
            if not record.running or self._closing:
                continue
            silent = self.silent(check)
            for key, state in list(record.states.items()):
                due = alertstate.next_due(state, record.limits)
                if due is not None and due <= now.boottime:
                    step = alertstate.tick(state, now.boottime, record.limits, silent=silent)
                    self._step(check, record, key, *step)
        self._schedule()

    def _catch_up(self, check: CheckId) -> None:
        """Tell what *check* has not told while it was silent."""
        record = self._records.get(check)
        if record is None or self._closing:
            return
        for key, state in list(record.states.items()):
            self._step(check, record, key, *alertstate.catch_up(state))
        self._changed()

    def _step(
        self, check: CheckId, record: Record, key: str, state: State, alerts: tuple[Alert, ...]
    ) -> None:
        self._keep(check, record, key, state)
        if alerts:
            self._queue(alerts, self._clock.now())
            self._save(check, record, key)
        self._changed()

    def _schedule(self) -> None:
        due = [
            alertstate.next_due(state, record.limits)
            for record in self._records.values()
            if record.running
            for state in record.states.values()
        ]
        moments = [*self._silent_until.values(), *(moment for moment in due if moment is not None)]
        self._alarm.set(min(moments, default=None))

    def _commit_soon(self) -> asyncio.Future[None]:
        """Commit what waits; the future is done when it is stored, or has OutboxError."""
        if self._stored is None:
            self._stored = asyncio.get_running_loop().create_future()
        if self._committing is None and not self._closing:
            self._committing = asyncio.get_running_loop().create_task(self._commit_all())
        return self._stored

    async def _commit_all(self) -> None:
        """Commit until nothing waits; what arrives meanwhile shares the next transaction."""
        try:
            while self._changes or self.error:
                await self._commit()
                if self.error:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._committing = None

    async def _commit(self) -> None:
        """One transaction. What cannot be written is held by the outbox for the next one."""
        changes, self._changes = self._changes, Changes()
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

    def _save_lazily(self) -> None:
        if self._lazy_timer is None and not self._closing:
            self._lazy_timer = asyncio.get_running_loop().call_later(LAZY_S, self._lazy_due)

    def _lazy_due(self) -> None:
        self._lazy_timer = None
        self._take_lazy()
        if self._changes:
            self._commit_soon()

    def _take_lazy(self) -> None:
        now = self._clock.now()
        for check, key in self._lazy_states:
            state = self._record(check).states.get(key)
            if state is not None:
                self._changes.states[check, key] = alertstate.encode(state, now)
        self._lazy_states.clear()
        for check in self._lazy_memories:
            self._changes.memories[check] = self._record(check).memory
        self._lazy_memories.clear()


class CheckReport:
    """What one running check tells; see subsystems.base.Report."""

    def __init__(self, recorder: Recorder, check: CheckId, record: Record) -> None:
        self._recorder = recorder
        self._check = check
        self._record = record

    def observe(self, observation: Observation, memory: str | None = None) -> None:
        self._recorder.observed(self._check, self._record, observation, memory)

    def gone(self, keep: Collection[str], cleared: str) -> None:
        self._recorder.ended(self._check, self._record, keep, cleared)

    async def tell(self, observation: Observation) -> None:
        await self._recorder.told(self._check, self._record, observation)

    def unknown(self, reason: str) -> None:
        self._recorder.cannot_look(self._check, self._record, reason)

    def known(self) -> None:
        self._recorder.can_look(self._record)

    def note(self, topic: str, text: str) -> None:
        self._recorder.noted(self._record, topic, text)

    def remember(self, memory: str) -> None:
        self._recorder.remembered(self._check, self._record, memory)

    @property
    def memory(self) -> str:
        return self._record.memory

    def is_bad(self, key: str = "") -> bool:
        state = self._record.states.get(key)
        return state is not None and state.bad
