"""Takes what waits in the outbox to the server, in order, until nothing waits or something is in the way."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mender_monitor_py import backoff, wire
from mender_monitor_py.backoff import Budget, Pace
from mender_monitor_py.batching import Batches
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.outbox import Outbox, Record
from mender_monitor_py.protocol import Reply, printable
from mender_monitor_py.records import happened
from mender_monitor_py.senderprocess import Link
from mender_monitor_py.settings import Settings
from mender_monitor_py.wire import Answer, Outcome

log = logging.getLogger(__name__)

MAX_BATCH = 768 * 1024  # bytes: the server takes requests of 1 MiB
LONG_PAUSE = 3600.0
_LOCKED_PAUSE = 5.0


class Obstacle(Enum):
    """What keeps alerts back."""

    CLOCK = "clock"  # not set yet
    SERVER = "server"  # not reached
    TOKEN = "token"  # noqa: S105  (none to be had)
    BUSY = "busy"  # the server asks to come later
    REFUSED = "refused"  # the server has no such service for this device
    SETUP = "setup"  # something has to be set right on the device
    OUTBOX = "outbox"  # it cannot be read or written
    OTHER = "other"  # another process sends


@dataclass(frozen=True, slots=True)
class Pause:
    """*seconds* to wait for what *obstacle* names; *reason* is for a person."""

    seconds: float
    obstacle: Obstacle
    reason: str

    @property
    def may_end_early(self) -> bool:
        """Whether news of the network or of the update client may mean that it is over."""
        return self.obstacle in (Obstacle.SERVER, Obstacle.TOKEN)


class Delivery:
    """
    Sends batches and judges the answers. Nothing of it is stored.

    A batch leaves the outbox after the server took it: a crash in between repeats that one batch at most.
    """

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        clock: Clock,
        settings: Settings,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._link = link
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._taken: list[int] = []
        self._per_minute: int | None = None
        self.last_sent = 0.0
        self.last_contact = 0.0
        self.sent = 0
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Other settings."""
        self._pace = Pace(settings.default_alert_store_resend_interval_s, settings.send_alert_max_interval_s)
        self._batches = Batches(settings.alert_batch_size)
        if settings.alert_requests_per_minute != self._per_minute:
            self._per_minute = settings.alert_requests_per_minute
            self._budget = Budget(self._per_minute)

    @property
    def interval(self) -> float:
        """Seconds from one attempt to the next, when nothing else is known."""
        return max(self._pace.interval, 1.0)

    async def drain(self) -> Pause | None:
        """Send all that waits. None: nothing waits any more."""
        self._batches.interrupted()
        try:
            await asyncio.to_thread(self._outbox.expire)
            while True:
                await self._settle_taken()
                batch = await asyncio.to_thread(self._outbox.head, self._batches.size, MAX_BATCH)
                if not batch:
                    return None
                pause = await self._deliver(batch)
                if pause is not None:
                    return pause
        except OutboxError as error:
            return Pause(self.interval, Obstacle.OUTBOX, str(error))

    async def push(self, config: Sequence[dict[str, Any]]) -> Pause | None:
        """Send the configuration. None: the server has it, or will never take it."""
        reply = await self._post("config", config)
        pause = self._obstacle(reply)
        if pause is None:
            self.last_contact = self._clock.now().wall
        if pause is None and wire.outcome(_answer(reply)) is Outcome.INVALID:
            log.error("the server refuses the configuration: %d %s", reply.status, printable(reply.body))
        return pause

    async def _deliver(self, batch: Sequence[Record]) -> Pause | None:
        now = self._clock.now()
        reply = await self._post(
            "alert", [wire.request_body(record.alert, happened(record.at, now)) for record in batch]
        )
        pause = self._obstacle(reply)
        if pause is not None:
            return pause
        self.last_contact = now.wall
        if wire.outcome(_answer(reply)) is Outcome.SENT:
            self._taken = [record.seq for record in batch]
            self._batches.accepted(len(batch))
            self.last_sent = now.wall
            self.sent += len(batch)
            await self._settle_taken()
        elif self._batches.refused(len(batch)):
            reason = f"{reply.status} {printable(reply.body)}".strip()
            log.error("the server refuses alert %d for good, it is set aside: %s", batch[0].seq, reason)
            await asyncio.to_thread(self._outbox.set_aside, batch[0].seq, reason)
        return None

    async def _settle_taken(self) -> None:
        """Until it is written down what the server has, nothing more is sent: it would be sent twice."""
        if self._taken:
            await asyncio.to_thread(self._outbox.sent, self._taken)
            self._taken = []

    async def _post(self, to: str, body: Sequence[dict[str, Any]]) -> Reply:
        await asyncio.sleep(self._budget.wait(self._clock.boottime()))
        reply = await self._link.post(to, body)
        self._budget.spend(self._clock.boottime(), max(reply.requests, 1))
        return reply

    def _obstacle(self, reply: Reply) -> Pause | None:
        """What *reply* says is in the way of it and all others."""
        if reply.wait is not None:
            return self._not_reached(reply)
        answer = _answer(reply)
        match wire.outcome(answer):
            case Outcome.REFUSED:
                return Pause(LONG_PAUSE, Obstacle.REFUSED, _refusal(answer))
            case Outcome.LATER:
                self._failures += 1
                wait = backoff.delay(self._failures, self._pace, self._chance(), answer.retry_after)
                # 502 to 504 is also how a proxy says that it does not reach the server.
                away = answer.status in (502, 503, 504) and answer.retry_after is None
                text = f"the server answers {answer.status} {printable(answer.body)}".strip()
                return Pause(wait, Obstacle.SERVER if away else Obstacle.BUSY, text)
        self._failures = 0
        return None

    def _not_reached(self, reply: Reply) -> Pause:
        reason = printable(reply.error, 400)
        if reply.wait == "server":
            return Pause(self.interval, Obstacle.SERVER, reason)
        self._failures += 1
        wait = backoff.delay(self._failures, self._pace, self._chance())
        return Pause(wait, Obstacle.TOKEN if reply.wait == "token" else Obstacle.SETUP, reason)


@contextmanager
def only_one(folder: Path) -> Iterator[Pause | None]:
    """
    Whoever sends holds this lock. Gives a pause when another process does.

    Raises OSError when the lock's file cannot be made.
    """
    fd = os.open(folder / "sender.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield Pause(_LOCKED_PAUSE, Obstacle.OTHER, "another process is sending")
        else:
            yield None
    finally:
        os.close(fd)


def _answer(reply: Reply) -> Answer:
    return Answer(reply.status, reply.body, reply.retry_after)


def _refusal(answer: Answer) -> str:
    if wire.needs_addon(answer):
        return "the server says that this tenant has no monitor add-on; the alerts are kept"
    if answer.status == 404:
        return "the server has no monitoring service (404); the alerts are kept"
    return f"the server refuses this device: {answer.status} {printable(answer.body)}; the alerts are kept"
