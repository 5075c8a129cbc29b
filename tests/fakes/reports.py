"""A report that keeps what it is told, in place of the recorder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from mender_monitor_py.errors import OutboxError
from mender_monitor_py.model import Observation

SOON = 30.0


class KeptReport:
    """
    Everything that a running check told, and a way to wait for more.

    *refuses* makes it unable to store alerts.
    """

    def __init__(self, *, refuses: bool = False) -> None:
        self.told: list[Observation] = []
        self.observed: list[Observation] = []
        self.states: list[str] = []
        self.notes: dict[str, str] = {}
        self.memory = ""
        self.silent = False
        self.stored = True
        self._refuses = refuses
        self._more = asyncio.Event()

    def observe(self, observation: Observation, memory: str | None = None) -> None:
        self.observed.append(observation)
        if memory is not None:
            self.memory = memory
        self._more.set()

    def gone(self, keep: Collection[str], cleared: str) -> None:
        self._more.set()

    async def tell(self, observation: Observation) -> None:
        if self._refuses:
            raise OutboxError("no space is left")
        self.told.append(observation)
        self._more.set()

    def unknown(self, reason: str) -> None:
        self.states.append(reason)
        self._more.set()

    def known(self) -> None:
        self.states.append("known")
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

    def is_bad(self, key: str = "") -> bool:
        return next((seen.bad for seen in reversed(self.observed) if seen.key == key), False)

    def is_kept_back(self, key: str = "") -> bool:
        return False

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds after something was told. Raises TimeoutError."""
        async with asyncio.timeout(SOON):
            while not condition():
                self._more.clear()
                await self._more.wait()
