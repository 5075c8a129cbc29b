"""What the checks report, turned into states and alerts: at once, or when a silence or a hold has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

from mender_monitor_py import alertstate
from mender_monitor_py.alertstate import Limits, State
from mender_monitor_py.checkrecords import CheckRecords, Look, Record
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.timer import Alarm
from mender_monitor_py.ledger import Store
from mender_monitor_py.model import OK, Alert, CheckId, Details, Observation, Stamp
from mender_monitor_py.quiet import Quiet

LOOK_S = 10.0  # in which a check that begins looks whether what was not told is still so
LOOK_MOST_S = 600.0  # what a look may take that a check was asked for, or has not ended by then

log = logging.getLogger(__name__)


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
        self._clock = clock
        self._changed = changed
        self._records = CheckRecords(store, clock, limits, queued, changed)
        # What was kept back and may be told now, until when the check may look whether it is still so.
        self._unlooked: dict[tuple[CheckId, str], float] = {}
        self._quiet = Quiet()
        self._alarm = Alarm(self._tick)
        self._closing = False

    @property
    def error(self) -> str:
        """Why nothing can be stored; empty: it can."""
        return self._records.error

    def load(self) -> None:
        """Read what earlier runs stored. Raises OutboxError."""
        self._records.load()
        until = self._clock.boottime() + LOOK_S
        for check, record in self._records:
            for key, state in record.states.items():
                if alertstate.may_be_over(state):
                    self._unlooked[check, key] = until

    def set_limits(self, limits: Limits) -> None:
        """Other settings: they count for the checks that are started from now on."""
        self._records.limits = limits

    @property
    def quiet(self) -> Quiet:
        """Of which checks nothing is told."""
        return self._quiet

    def set_quiet(self, quiet: Quiet) -> None:
        """Other silences, or a hold that begins or ends: who may speak again tells what it has not told."""
        self._quiet = quiet
        self._tick()
        self._changed()

    def silent(self, check: CheckId) -> bool:
        """Whether nothing is told of *check* for now."""
        return self._quiet.silences(check, self._clock.boottime())

    def start(self, check: CheckId, expires_after: float | None) -> CheckReport:
        """A check runs from now on: its events expire after *expires_after* seconds."""
        record = self._records.of(check)
        record.limits = replace(self._records.limits, expires_after=expires_after)
        record.running = True
        record.unknown = ""
        record.seen = False
        record.notes = {}
        record.looks, record.look = False, Look.NONE
        self._schedule()
        return CheckReport(self, check, record)

    def stop(self, check: CheckId) -> None:
        """A check does not run any more; what is known of it is kept for when it is enabled again."""
        self._records.of(check).running = False
        for place in self._unlooked_of(check):
            self._unlooked[place] = min(self._unlooked[place], self._clock.boottime() + LOOK_S)
        self._schedule()
        self._changed()

    def forget(self, check: CheckId) -> None:
        """A check was deleted: tell what has happened, close what the server has of it, and keep nothing."""
        record = self._records.get(check)
        if record is None:
            return
        now = self._clock.now()
        for key, found in list(record.states.items()):
            happened = found.last is not None and found.last.event
            state = self._catch_up(check, record, key, found, now) if happened else found
            self._records.queue(alertstate.close(state, "The check was deleted"), now)
        self._records.forget(check)
        for place in self._unlooked_of(check):
            del self._unlooked[place]
        self._schedule()
        self._changed()

    def known_checks(self) -> Collection[CheckId]:
        """All checks of which something is kept."""
        return tuple(check for check, _ in self._records)

    def record(self, check: CheckId) -> Record | None:
        return self._records.get(check)

    def tell(self, alert: Alert) -> None:
        """Queue an alert of the monitor itself."""
        self._records.queue((alert,), self._clock.now())

    def stop_observing(self) -> None:
        """The daemon ends, perhaps because the device does: what is seen from now on is not news."""
        self._closing = True

    async def close(self) -> None:
        """Store all that is known, once, and end."""
        self._closing = True
        self._alarm.close()
        await self._records.close()

    async def run_in_worker(self, function: Callable[[], None]) -> None:
        """Run *function* in the thread that writes to the outbox, in order with the transactions."""
        await self._records.run_in_worker(function)

    # What a running check reports, by way of its CheckReport.

    def observed(self, check: CheckId, record: Record, seen: Observation, memory: str | None) -> None:
        if self._closing or not record.running:
            return
        now = self._clock.now()
        self._unlooked.pop((check, seen.key), None)
        before = record.states.get(seen.key)
        if memory is not None:
            self._records.remember(check, record, memory)
        if before is None and seen.key and not seen.bad:
            self.can_look(record)
            return
        if before is None and not self._records.has_room(check, record, now.boottime):
            return
        silent = self.silent(check)
        state = before or State()
        after, alerts = alertstate.observe(
            state, seen, now.boottime, record.limits, silent=silent, held=self._quiet.holds(check)
        )
        self._records.keep(check, record, seen.key, after)
        if alerts:
            late = state.kept_back and after.since == state.since
            self._records.queue(alerts, alertstate.told_at(after, now) if late else now)
            self._records.save(check, seen.key)
        elif silent and after.bad != state.bad:  # nothing else would tell of it after a crash
            self._records.save(check, seen.key)
            self._records.commit_soon()
        if alerts or silent or record.unknown or not record.seen:
            record.unknown, record.seen = "", True
            self._changed()
        self._schedule()

    async def told(self, check: CheckId, record: Record, seen: Observation) -> None:
        if self._closing or not record.running:
            return
        now = self._clock.now()
        silent = self.silent(check)
        if not silent:
            self._records.queue((seen.alert(),), now)
        if seen.key in record.states or self._records.has_room(check, record, now.boottime):
            before = record.states.get(seen.key, State())
            state = alertstate.stated(before, seen, now.boottime, silent=silent)
            self._records.keep(check, record, seen.key, state)
            self._records.save(check, seen.key)
        self._changed()
        self._schedule()
        await self._records.commit_soon()

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
            self._records.remember(check, record, memory)
            self._records.commit_lazily()

    async def paused(
        self, check: CheckId, record: Record, seconds: float, wake: asyncio.Event, *, looked: bool
    ) -> bool:
        record.looks, record.wake = True, wake
        unlooked = self._unlooked_of(check)
        if unlooked and record.look is not Look.WANTED:
            if looked and not record.unknown:
                self._end_look(check, record)
            elif not looked and record.look is Look.NONE:  # the first one after a start
                record.look = Look.BEGUN
                self._unlooked |= dict.fromkeys(unlooked, self._clock.boottime() + LOOK_MOST_S)
        if record.look is not Look.WANTED:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await wake.wait()
        begins = record.look is Look.WANTED
        if begins:
            record.look = Look.BEGUN
        return begins

    def _end_look(self, check: CheckId, record: Record) -> None:
        """The check has looked: what was kept back, and is not over, is told."""
        record.look = Look.NONE
        now = self._clock.now()
        for place in self._unlooked_of(check):
            del self._unlooked[place]
            state = record.states.get(place[1])
            if state is not None and not self.silent(check):
                self._catch_up(check, record, place[1], state, now)
        self._schedule()

    def _unlooked_of(self, check: CheckId) -> list[tuple[CheckId, str]]:
        return [place for place in self._unlooked if place[0] == check]

    def _waits(self, check: CheckId, record: Record, key: str, state: State, now: float) -> bool:
        """
        Whether what was not told of a finding has to wait for a look of the check: it may be over.

        One that is not silent any more is asked for it.
        """
        until = self._unlooked.get((check, key))
        if until is not None and until <= now:
            del self._unlooked[check, key]
            return False
        if until is None:
            asks = record.running and record.looks and alertstate.may_be_over(state)
            if not asks or self._quiet.silences(check, now):
                return False
            self._unlooked[check, key] = now + LOOK_MOST_S
            record.look = Look.WANTED
            record.wake.set()
        return True

    def _tick(self) -> None:
        """Something expires, or flapping, a silence or a hold ends."""
        now = self._clock.now()
        for check, record in self._records:
            if self._closing:
                break
            silenced, held = self._quiet.silences(check, now.boottime), self._quiet.holds(check)
            for key, state in list(record.states.items()):
                silent = self._waits(check, record, key, state, now.boottime) or silenced
                if not silent:
                    state = self._catch_up(check, record, key, state, now)
                due = alertstate.next_due(state, record.limits, silent=silent) if record.running else None
                if due is not None and due <= now.boottime:
                    after, alerts = alertstate.tick(
                        state, now.boottime, record.limits, silent=silent, held=held
                    )
                    self._step(check, record, key, after, alerts, now)
        self._schedule()

    def _catch_up(self, check: CheckId, record: Record, key: str, state: State, now: Stamp) -> State:
        """Tell what was not told of a finding while it was silent; what it is then."""
        after, alerts = alertstate.catch_up(state)
        if alerts:
            self._step(check, record, key, after, alerts, alertstate.told_at(state, now))
        return after

    def _step(
        self,
        check: CheckId,
        record: Record,
        key: str,
        state: State,
        alerts: tuple[Alert, ...],
        at: Stamp,
    ) -> None:
        self._records.keep(check, record, key, state)
        if alerts:
            self._records.queue(alerts, at)
            self._records.save(check, key)
        self._changed()

    def _schedule(self) -> None:
        now = self._clock.boottime()
        due = [
            alertstate.next_due(state, record.limits, silent=self._quiet.silences(check, now))
            for check, record in self._records
            if record.running
            for state in record.states.values()
        ]
        due.append(self._quiet.next_end(now))
        due += [moment for moment in self._unlooked.values() if moment > now]
        self._alarm.set(min((moment for moment in due if moment is not None), default=None))


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

    async def pause(self, seconds: float, wake: asyncio.Event | None = None, *, looked: bool = True) -> bool:
        wake = wake or asyncio.Event()
        return await self._recorder.paused(self._check, self._record, seconds, wake, looked=looked)

    def note(self, topic: str, text: str) -> None:
        self._recorder.noted(self._record, topic, text)

    def remember(self, memory: str) -> None:
        self._recorder.remembered(self._check, self._record, memory)

    @property
    def memory(self) -> str:
        return self._record.memory

    @property
    def silent(self) -> bool:
        return self._recorder.silent(self._check)

    @property
    def stored(self) -> bool:
        return not self._recorder.error

    def is_bad(self, key: str = "") -> bool:
        state = self._record.states.get(key)
        return state is not None and state.bad

    def is_kept_back(self, key: str = "") -> bool:
        state = self._record.states.get(key)
        return state is not None and state.kept_back
