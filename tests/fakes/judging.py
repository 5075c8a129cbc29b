"""A report that judges what it is told as the recorder does, and keeps the alerts that come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

from mender_monitor_py import alertstate
from mender_monitor_py.alertstate import Limits, State
from mender_monitor_py.model import CRITICAL, OK, Alert, Details, Observation

SOON = 60.0  # what runs at idle priority beside a busy machine takes long


class JudgingReport:
    """The alerts of one check, in order; :meth:`until` waits for more of them."""

    def __init__(self, memory: str = "", expires_after: float | None = None) -> None:
        self.alerts: list[Alert] = []
        self.states: dict[str, State] = {}
        self.notes: dict[str, str] = {}
        self.memory = memory
        self.silent = False
        self.stored = True
        self.reason = "starting"
        self._limits = Limits(60, 1000, expires_after)
        self._more = asyncio.Event()

    def observe(self, observation: Observation, memory: str | None = None) -> None:
        observation.key.encode()  # it can be stored
        before = self.states.get(observation.key, State())
        after, alerts = alertstate.observe(before, observation, time.monotonic(), self._limits)
        self.states[observation.key] = after
        self.alerts += alerts
        self.memory = self.memory if memory is None else memory
        self.known()

    def gone(self, keep: Collection[str], cleared: str) -> None:
        for key, state in list(self.states.items()):
            last = state.last
            if last is not None and last.bad and not last.event and key not in keep:
                status = last.cleared_status or last.subject.status
                subject = replace(last.subject, status=status)
                self.observe(replace(last, level=OK, subject=subject, details=Details(cleared)))

    async def tell(self, observation: Observation) -> None:
        self.states[observation.key] = State(observation, told=observation.level)
        self.alerts.append(observation.alert())
        self.known()

    def unknown(self, reason: str) -> None:
        self.reason = reason
        self._more.set()

    def known(self) -> None:
        self.reason = ""
        self._more.set()

    def note(self, topic: str, text: str) -> None:
        self.notes[topic] = text
        self._more.set()

    async def pause(self, seconds: float, wake: asyncio.Event | None = None, *, looked: bool = True) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await (wake or asyncio.Event()).wait()
        return False

    def remember(self, memory: str) -> None:
        self.memory = memory
        self._more.set()

    def is_bad(self, key: str = "") -> bool:
        state = self.states.get(key)
        return state is not None and state.bad

    def is_kept_back(self, key: str = "") -> bool:
        state = self.states.get(key)
        return state is not None and state.kept_back

    @property
    def open(self) -> list[str]:
        """The names of the alerts that are CRITICAL and not cleared, sorted."""
        levels: dict[tuple[str, str], str] = {}
        for alert in self.alerts:
            levels[alert.name, alert.subject.name] = alert.level
        return sorted(name for (name, _), level in levels.items() if level == CRITICAL)

    def last(self, name: str) -> Alert:
        return next(alert for alert in reversed(self.alerts) if alert.name == name)

    async def until(self, condition: Callable[[], object], within: float = SOON) -> None:
        """Wait until *condition* holds. Raises TimeoutError with what there is instead."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            told = [(alert.level, alert.name, alert.subject.name) for alert in self.alerts]
            raise TimeoutError(f"alerts {told}, {self.reason!r}, notes {self.notes}") from None
