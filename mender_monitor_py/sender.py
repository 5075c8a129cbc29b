"""
Decides when to send: one task of the watcher.

The sender process exists only while something waits to be sent, and for a moment longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mender_monitor_py import confpush
from mender_monitor_py.backoff import Budget
from mender_monitor_py.delivery import Delivery, Obstacle, Pause, only_one
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.netlink import NetworkWatch
from mender_monitor_py.host.timer import Alarm
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.senderprocess import Link, SenderProcess
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition

if TYPE_CHECKING:
    from mender_monitor_py.busmessage import Signal
    from mender_monitor_py.host.host import Host

log = logging.getLogger(__name__)

CLOCK_PATIENCE = 600.0  # seconds for which the first alerts wait for the clock to be set
GATHERING = 0.1  # seconds in which alerts that come together find each other
LINGER = 10.0  # seconds for which the sender process stays when nothing waits
_KEEP_FOR = 120.0  # and the pause for which it is worth keeping
_SPACING = 3.0  # seconds in which news of the network come together
_EARLY_PER_MINUTE = 6  # attempts that such news lead to
_HOPE = 30.0  # seconds after such news in which attempts are frequent
_HOPEFUL_PAUSE = 5.0

_UPDATE_CLIENT = "io.mender.AuthenticationManager"
_TOKEN_RULE = (
    f"type='signal',sender='{_UPDATE_CLIENT}',interface='io.mender.Authentication1',"
    "member='JwtTokenStateChange',path='/io/mender/AuthenticationManager'"
)
_OWNER_RULE = (
    "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',"
    f"member='NameOwnerChanged',arg0='{_UPDATE_CLIENT}'"
)


class Sender:
    """
    Sends what waits in *outbox* when it can be sent, and the configuration when it is another.

    *changed* is called when :meth:`status` may be another.
    """

    def __init__(
        self,
        outbox: Outbox,
        settings: Settings,
        paths: Paths,
        host: Host,
        *,
        link: Link | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._outbox = outbox
        self._settings = settings
        self._paths = paths
        self._host = host
        self._clock = host.clock
        self._link = link or SenderProcess(paths, lambda: self._settings)
        self._delivery = Delivery(outbox, self._link, host.clock, settings)
        self._changed = changed
        self._event = asyncio.Event()
        self._news = self._hint = self._now = False
        self._pause: Pause | None = None
        self._due: float | None = None
        self._hopeful_until = 0.0
        self._early = Budget(_EARLY_PER_MINUTE)
        self._started = host.clock.boottime()
        self._config: list[dict[str, Any]] | None = None
        self._definitions: list[Definition] = []
        self._push_due = 0.0

    def wake(self) -> None:
        """Something was queued, or the clock was set."""
        self._news = True
        self._event.set()

    def server_maybe_back(self) -> None:
        """There is news of the network or of the update client."""
        self._hint = True
        self._hopeful_until = self._clock.boottime() + _HOPE
        self._event.set()

    def send_now(self) -> None:
        """A person wants it: whatever is waited for is forgotten."""
        self._now = True
        self._event.set()

    def checks_changed(self, definitions: Iterable[Definition]) -> None:
        """These checks are enabled now."""
        self._definitions = list(definitions)
        config = confpush.body(self._definitions, others=self._settings.confpush_other_checks)
        if config != self._config:
            self._config = config
            self._push_due = 0.0
            self.wake()

    def set_settings(self, settings: Settings) -> None:
        """Other settings, which may remove what is in the way."""
        self._settings = settings
        self._delivery.configure(settings)
        self._push_due = min(self._push_due, self._next_push())
        if self._config is not None:
            self.checks_changed(self._definitions)
        self.send_now()

    def status(self) -> dict[str, Any]:
        """What it does, for people. Moments are seconds since the epoch (0: none)."""
        now = self._clock.now()
        pause = self._pause
        return {
            "state": "waiting" if pause is not None else "ready",
            "obstacle": pause.obstacle.value if pause is not None else "",
            "reason": pause.reason if pause is not None else "",
            "next_try": now.wall + self._due - now.boottime if pause is not None and self._due else 0,
            "last_sent": self._delivery.last_sent,
            "last_contact": self._delivery.last_contact,
            "sent": self._delivery.sent,
        }

    async def run(self) -> None:
        """Until cancelled."""
        alarm = Alarm(self._event.set)
        try:
            while True:
                self._event.clear()
                self._news = self._hint = self._now = False
                self._say(await self._round())
                await self._rest(alarm)
        finally:
            alarm.close()
            await self._link.close()

    async def _round(self) -> Pause | None:
        """Send what there is to send."""
        try:
            waiting = bool(await asyncio.to_thread(self._outbox.head, 1))
            if waiting:
                left = self._started + CLOCK_PATIENCE - self._clock.boottime()
                if left > 0 and not self._clock.now().known:
                    return Pause(left, Obstacle.CLOCK, "the clock is not set yet")
            if not waiting and not self._push_is_due():
                return None
            with only_one(self._paths.state) as locked_out:
                if locked_out is not None:
                    return locked_out
                pause = await self._delivery.drain()
                if pause is None and self._push_is_due():
                    pause = await self._push()
                return pause
        except (OutboxError, OSError) as error:
            return Pause(self._delivery.interval, Obstacle.OUTBOX, str(error))

    def _push_is_due(self) -> bool:
        return self._config is not None and self._clock.boottime() >= self._push_due

    def _next_push(self) -> float:
        interval = self._settings.confpush_interval
        return self._clock.boottime() + interval if interval > 0 else float("inf")

    async def _push(self) -> Pause | None:
        """Send the configuration. What is in its way alone does not hold up alerts."""
        config = self._config
        assert config is not None
        pause = await self._delivery.push(config)
        if pause is not None and pause.obstacle not in (Obstacle.BUSY, Obstacle.REFUSED):
            return pause
        if config is not self._config:
            return None  # it was changed meanwhile: look again
        if pause is None:
            self._push_due = self._next_push()
        else:
            self._push_due = self._clock.boottime() + pause.seconds
            log.warning("the configuration is not sent for now: %s", pause.reason)
        return None

    def _say(self, pause: Pause | None) -> None:
        """Log what is new about *pause*, and keep it for the status."""
        before, self._pause = self._pause, pause
        now = self._clock.boottime()
        self._due = None
        if pause is not None:
            seconds = pause.seconds
            if pause.obstacle is Obstacle.SERVER and now < self._hopeful_until:
                seconds = min(seconds, _HOPEFUL_PAUSE)
            self._due = now + seconds
            if before is None or before.reason != pause.reason:
                log.warning("nothing is sent for now: %s", pause.reason)
        elif before is not None:
            log.info("sending works again")
        self._changed()

    async def _rest(self, alarm: Alarm) -> None:
        """Until there is a reason to look again."""
        pause, since = self._pause, self._clock.boottime()
        with ExitStack() as watches:
            if pause is not None and pause.may_end_early:
                self._watch_for_return(watches)
            if pause is not None and pause.seconds > _KEEP_FOR:
                await self._link.close()
            while not (self._now or (pause is None and self._news)):
                if pause is not None and pause.obstacle is Obstacle.CLOCK and self._clock.now().known:
                    break
                due = self._next_look(pause, since)
                if due is not None and due <= self._clock.boottime():
                    if pause is not None or self._push_is_due():
                        if self._hint:
                            self._early.spend(self._clock.boottime())
                        break
                    await self._link.close()  # nothing has waited for long enough
                    continue
                alarm.set(due)
                await self._event.wait()
                self._event.clear()
        alarm.set(None)
        if pause is None:
            await asyncio.sleep(GATHERING)

    def _next_look(self, pause: Pause | None, since: float) -> float | None:
        """When to look again if nothing happens."""
        if pause is not None:
            assert self._due is not None
            if self._hint and pause.may_end_early:
                return min(self._due, since + _SPACING + self._early.wait(since))
            return self._due
        due = []
        if self._link.is_open:
            due.append(since + LINGER)
        if self._config is not None and self._push_due < float("inf"):
            due.append(self._push_due)
        return min(due, default=None)

    def _watch_for_return(self, watches: ExitStack) -> None:
        try:
            watches.callback(NetworkWatch(self.server_maybe_back).close)
        except OSError as error:
            log.debug("the network is not watched: %s", error)
        if self._settings.device_key:
            return
        for rule, callback in ((_TOKEN_RULE, self._token_changed), (_OWNER_RULE, self._owner_changed)):
            watches.callback(self._host.bus.watch(rule, callback))

    def _token_changed(self, signal: Signal) -> None:
        if len(signal.body) == 2 and all(signal.body):  # a failed fetch gives two empty strings
            self.server_maybe_back()

    def _owner_changed(self, signal: Signal) -> None:
        if len(signal.body) == 3 and signal.body[2]:
            self.server_maybe_back()


@dataclass(frozen=True, slots=True)
class Drained:
    """What :func:`drain_once` has done, and why it stopped (empty: nothing waits any more)."""

    sent: int
    problem: str


async def drain_once(outbox: Outbox, settings: Settings, paths: Paths, clock: Clock) -> Drained:
    """
    Send what waits, without the daemon: for ``queue flush``.

    One attempt; what is in the way is the answer. Raises OutboxError.
    """
    if not await asyncio.to_thread(outbox.head, 1):
        return Drained(0, "")
    link = SenderProcess(paths, lambda: settings)
    delivery = Delivery(outbox, link, clock, settings)
    try:
        with only_one(paths.state) as locked_out:
            pause = locked_out or await delivery.drain()
    except OSError as error:
        raise OutboxError(f"{paths.state}: {error.strerror}") from error
    finally:
        await link.close()
    return Drained(delivery.sent, pause.reason if pause is not None else "")
