"""
What is known of each check, and which of it is not on the disk yet.

Everything that changes in one turn of the event loop, and while a transaction is on its way to the disk, is
committed together (ledger.py). A change that no alert depends on (a log position, a renewed expiration) waits
for the next alert, for the end, or for a quarter of an hour.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from mender_monitor_py import alertstate
from mender_monitor_py.alertstate import Limits, State
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.ledger import Ledger, Store
from mender_monitor_py.model import Alert, CheckId, Stamp

MAX_FINDINGS = 1000

log = logging.getLogger(__name__)


class Look(Enum):
    """A look that a check is asked for, as what was kept back of it is to be told."""

    NONE = auto()
    WANTED = auto()
    BEGUN = auto()


@dataclass
class Record:
    """
    What is known of one check.

    *states* are its findings by their keys, *memory* is its own for its next start. *running*: it is enabled.
    *unknown*: why it cannot look; empty: it can. *seen*: it has looked since it was started. *notes* are for
    the status, by topic. *told_full*: the log has that it has too many findings.

    *looks*: it says by its pauses when it has looked at what there is. *look* is one that was asked for,
    *wake* what ends its pause.
    """

    limits: Limits
    running: bool = False
    states: dict[str, State] = field(default_factory=dict)
    memory: str = ""
    unknown: str = ""
    seen: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    told_full: bool = False
    looks: bool = False
    look: Look = Look.NONE
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class CheckRecords:
    """
    The records of all checks. New ones get the *limits*.

    *queued* is called after a transaction that holds alerts; *changed* when :attr:`error` is another.
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
        self.limits = limits
        self._records: dict[CheckId, Record] = {}
        self._lazy_states: set[tuple[CheckId, str]] = set()
        self._lazy_memories: set[CheckId] = set()
        self._ledger = Ledger(store, self._take_lazy, queued, changed)

    def __iter__(self) -> Iterator[tuple[CheckId, Record]]:
        return iter(self._records.items())

    @property
    def error(self) -> str:
        """Why nothing can be stored; empty: it can."""
        return self._ledger.error

    def load(self) -> None:
        """Read what earlier runs stored. Raises OutboxError."""
        now = self._clock.now()
        for (check, key), text in self._store.states().items():
            try:
                state, saved = alertstate.decode(text)
            except ValueError as error:
                log.warning("the stored state of %s is given up: %s", check, error)
                continue
            self.of(check).states[key] = alertstate.rebase(state, saved, now)
        for check, memory in self._store.memories().items():
            self.of(check).memory = memory
        for check, record in self:
            self._prune(check, record, now.boottime)

    def get(self, check: CheckId) -> Record | None:
        """What is known of *check*; None: nothing is."""
        return self._records.get(check)

    def of(self, check: CheckId) -> Record:
        """The record of *check*, a new one if there is none."""
        return self._records.setdefault(check, Record(self.limits))

    def forget(self, check: CheckId) -> None:
        """Keep nothing of *check*."""
        record = self._records.pop(check)
        for key in record.states:
            self._ledger.changes.states[check, key] = None
            self._lazy_states.discard((check, key))
        self._lazy_memories.discard(check)
        self._ledger.changes.memories[check] = None
        self._ledger.commit_soon()

    def has_room(self, check: CheckId, record: Record, now: float) -> bool:
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

    def keep(self, check: CheckId, record: Record, key: str, state: State) -> None:
        """The finding is in *state* now; the disk has time."""
        record.states[key] = state
        if state.bad or state.changes:
            self._lazy_states.add((check, key))
            self._ledger.commit_lazily()

    def remember(self, check: CheckId, record: Record, memory: str) -> None:
        """The memory of *check* is another; it goes with its next alert."""
        record.memory = memory
        self._lazy_memories.add(check)

    def save(self, check: CheckId, key: str) -> None:
        """The state of the finding and the memory go with the next transaction."""
        record = self.of(check)
        state = record.states.get(key)
        if state is not None:
            self._ledger.changes.states[check, key] = alertstate.encode(state, self._clock.now())
        self._lazy_states.discard((check, key))
        if check in self._lazy_memories:
            self._lazy_memories.discard(check)
            self._ledger.changes.memories[check] = record.memory

    def queue(self, alerts: Iterable[Alert], at: Stamp) -> None:
        """*alerts* of what happened *at* that moment are to be sent."""
        waiting = [(alert, at) for alert in alerts]
        if waiting:
            self._ledger.changes.alerts += waiting
            self._ledger.commit_soon()

    def commit_soon(self) -> asyncio.Future[None]:
        """Commit what waits; the future is done when it is stored, or has OutboxError."""
        return self._ledger.commit_soon()

    def commit_lazily(self) -> None:
        """Commit in a while."""
        self._ledger.commit_lazily()

    async def run_in_worker(self, function: Callable[[], None]) -> None:
        """Run *function* in the thread that writes to the outbox, in order with the transactions."""
        await self._ledger.run_in_worker(function)

    async def close(self) -> None:
        """Store all that is known, once, and end."""
        await self._ledger.close()

    def _prune(self, check: CheckId, record: Record, now: float) -> None:
        """Give up the findings that are over, once they cannot be part of flapping any more."""
        for key, state in list(record.states.items()):
            if key and alertstate.tick(state, now, record.limits, silent=True)[0].idle:
                del record.states[key]
                self._lazy_states.discard((check, key))
                self._ledger.changes.states[check, key] = None

    def _take_lazy(self) -> None:
        now = self._clock.now()
        for check, key in self._lazy_states:
            state = self.of(check).states.get(key)
            if state is not None:
                self._ledger.changes.states[check, key] = alertstate.encode(state, now)
        self._lazy_states.clear()
        for check in self._lazy_memories:
            self._ledger.changes.memories[check] = self.of(check).memory
        self._lazy_memories.clear()
