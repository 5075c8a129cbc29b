"""
Findings are held back while the update client installs, and judged when that has ended.

From the first state that changes the device until the deployment has ended, or DEPLOYMENT_GRACE has passed.
After a commit the lists are brought up to what it changed; then what was started has a moment to come up.
The recorder has each check look again before it tells what was held back.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mender_monitor_py.deployed import Evidence, Image
from mender_monitor_py.errors import MonitorError
from mender_monitor_py.hold import Hold
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.rebaselines import rebaseline
from mender_monitor_py.host.timer import Alarm
from mender_monitor_py.model import Stamp
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.records import happened
from mender_monitor_py.replacedfiles import ReplacedFile, from_text, to_text
from mender_monitor_py.updateprogress import Change, Outcome, Update

SETTLE_S = 10.0
META = "hold"
PAYLOAD = "hold payload"
REPLACED = "replaced files"
_IMAGE = "rootfs-image"

Work = Coroutine[Any, Any, None]

log = logging.getLogger(__name__)


class Holding:
    """
    Whether findings are held back now.

    *write* runs a function in the thread that writes to *outbox*; *changed* is called when :attr:`held` or
    :meth:`status` is another.
    """

    def __init__(
        self,
        host: Host,
        outbox: Outbox,
        write: Callable[[Callable[[], None]], Work],
        grace: float,
        changed: Callable[[], None],
    ) -> None:
        self._host = host
        self._outbox = outbox
        self._write = write
        self._grace = grace
        self._changed = changed
        self._hold: Hold | None = None
        self._alarm = Alarm(self._look_at_the_clock)
        self._undo: Callable[[], None] = lambda: None
        self._jobs: set[asyncio.Task[None]] = set()
        self._writings: set[asyncio.Task[None]] = set()
        self._finishing: asyncio.Task[None] | None = None
        self._collecting = False  # what the deployment that has ended did
        self._next: Stamp | None = None  # when another one began meanwhile
        self._following: asyncio.Task[None] | None = None
        self._watched: Stamp | None = None  # until when who writes was seen; None: it is, or was to the end
        self._doubtful = False  # whether the deployment goes on is not known
        host.held = lambda: self.held

    @property
    def held(self) -> bool:
        """Whether findings are held back."""
        return self._hold is not None and self._hold.left(self._grace, self._host.clock.now()) > 0

    def status(self) -> dict[str, Any] | None:
        """The deployment for which findings are held back, with times since the epoch."""
        hold, now = self._hold, self._host.clock.now()
        if hold is None or not self.held:
            return None
        return {
            "deployment": hold.id,
            "artifact": hold.artifact,
            "since": happened(hold.began, now),
            "until": now.wall + hold.left(self._grace, now),
            "outcome": hold.outcome,
        }

    def start(self) -> None:
        """Go on with the hold of an earlier run, or begin one. Then :attr:`held` is right."""
        self._know_replaced()
        try:
            stored = Hold.from_text(self._outbox.meta(META))
            if stored is not None:
                self._host.installation.payload = _payload(self._outbox.meta(PAYLOAD))
        except MonitorError as error:
            log.error("%s", error)
            stored = None
        self._undo = self._host.updates.listen(self._moved, self._end_of_doubtful)
        current = self._host.updates.current
        if stored is not None:
            self._take(stored.resumed(self._host.clock.now()))
            if stored.outcome:
                self._finish_soon()
            else:
                self._doubtful = True
                self._end_of_doubtful()
        if current is not None and current.installing:
            self._installs(current)
        elif current is not None:
            self._prepare()

    def set_grace(self, grace: float) -> None:
        """DEPLOYMENT_GRACE is another."""
        self._grace = grace
        self._look_at_the_clock()

    async def aclose(self) -> None:
        """The daemon ends; the next one goes on, and may come when the client has removed the artifact."""
        self._undo()
        self._alarm.close()
        for task in (*self._jobs, self._finishing, self._following):
            if task is not None:
                task.cancel()
        if self._hold is not None:
            await self._host.installation.aclose()
            self._keep(PAYLOAD, json.dumps(self._host.installation.payload))
        else:
            await self._host.installation.end()
        await asyncio.gather(*self._writings)

    def settle(self) -> None:
        """Write down how long the hold has lasted: a reboot may lose the time. Raises OutboxError."""
        hold, now = self._hold, self._host.clock.now()
        if hold is not None and not (hold.began.known and now.known):
            spent = self._grace - hold.left(self._grace, now)
            self._outbox.set_meta(META, replace(hold, spent=spent, counted=now).to_text())

    # What the update client does

    def _moved(self, change: Change) -> None:
        update, hold = change.update, self._hold
        if change.outcome is None:
            if update.installing:
                self._installs(update)
            else:
                self._prepare()
        elif hold is not None and not hold.outcome and hold.is_of(update.id, update.artifact):
            if change.outcome == Outcome.UNKNOWN and self._may_go_on(hold):
                self._doubtful = True
            else:
                self._ended(change.outcome)
        elif hold is None:
            self._job(self._give_up())

    def _may_go_on(self, hold: Hold) -> bool:
        """The client's store could not be read for a moment, or cannot yet."""
        current = self._host.updates.current
        return bool(self._host.updates.unknown) or (
            current is not None and hold.is_of(current.id, current.artifact)
        )

    def _end_of_doubtful(self) -> None:
        """It may have ended while nobody looked. That is not known before the client's store can be read."""
        hold, updates = self._hold, self._host.updates
        if not self._doubtful or hold is None or updates.unknown:
            return
        self._doubtful = False
        current = updates.current
        if not hold.outcome and (current is None or not hold.is_of(current.id, current.artifact)):
            self._ended(hold.ended_as(updates.artifact, Outcome.COMMITTED, Outcome.ROLLED_BACK))

    def _installs(self, update: Update) -> None:
        hold = self._hold
        if self._collecting:
            self._next = self._next or self._host.clock.now()
            return
        if hold is None or hold.outcome or not hold.is_of(update.id, update.artifact):
            self._begin(update, self._host.clock.now())
        elif (update.artifact and update.artifact != hold.artifact) or not hold.payload_types:
            self._take(replace(hold, artifact=update.artifact, payload_types=update.payload_types))
        if self.held:
            self._host.installation.begin()
            self._host.installation.image = self._new_image

    def _prepare(self) -> None:
        """
        Nothing is changed yet, so nothing is held back. What the client starts meanwhile is its own.

        While another one is judged its evidence is not touched: this one is looked at anew then.
        """
        if self._hold is None:
            self._host.installation.prepare()

    async def _give_up(self) -> None:
        """One has ended before it changed anything. The next one may have begun by now, or meanwhile."""
        if self._idle:
            await self._host.installation.end()
        if self._idle:
            self._host.installation.forget()

    @property
    def _idle(self) -> bool:
        return self._hold is None and self._host.updates.current is None

    def _new_image(self) -> Image | None:
        """The root file system that came with the deployment, if it runs now. It may be given up yet."""
        hold = self._hold
        new = hold is not None and _IMAGE in hold.payload_types and hold.device != _root_device()
        return self._image() if new else None

    def _image_of(self, hold: Hold) -> Image | None:
        """
        The root file system that came with a deployment that was committed; None: none did.

        By hand that may be done before the device has booted into it: what runs is the old one then.
        """
        booted = bool(hold.id or hold.boots)
        return self._image() if booted and _IMAGE in hold.payload_types else None

    def _image(self) -> Image:
        """The root file system that runs now."""
        now = self._host.clock.now()
        return Image(_root_device(), now.wall - now.boottime)

    def _begin(self, update: Update, at: Stamp) -> None:
        if self._finishing is not None:  # the one before has just ended: all that is held waits for this one
            self._finishing.cancel()
            self._finishing = None
        self._watched = None
        if self._hold is not None:
            self._host.installation.forget()
        installed = self._host.updates.artifact
        hold = Hold(update.id, update.artifact, installed, at, _root_device(), update.payload_types)
        log.info("findings are held back: %s is installed", hold.label)
        self._take(hold)

    def _ended(self, outcome: str) -> None:
        assert self._hold is not None
        self._take(replace(self._hold, outcome=str(outcome)))
        self._finish_soon()

    def _finish_soon(self) -> None:
        self._collecting = True
        self._finishing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        hold = self._hold
        assert hold is not None
        ended = self._host.clock.now().wall
        try:
            await self._host.installation.collected()
        finally:
            self._collecting = False
        evidence, before = self._evidence(hold, ended), self._following
        self._following = asyncio.get_running_loop().create_task(self._follow(hold, evidence, before))
        began, self._next = self._next, None
        current = self._host.updates.current
        if began is not None and current is not None and current.installing:
            self._finishing = None
            self._begin(current, began)
            self._installs(current)
            return
        await asyncio.wait([self._following])
        await asyncio.sleep(SETTLE_S)
        await self._host.installation.end()
        log.info("%s has ended (%s): what was held back is judged now", hold.label, hold.outcome)
        self._finishing = None
        self._take(None)
        self._host.installation.forget()
        self._keep(PAYLOAD, "")
        if self._host.updates.current is not None:
            self._prepare()

    # What is known

    def _take(self, hold: Hold | None) -> None:
        self._hold = hold
        text = hold.to_text() if hold is not None else ""
        self._keep(META, text)
        self._look_at_the_clock()

    def _keep(self, key: str, text: str) -> None:
        """Have *text* stored, before the daemon ends: a disk may be slow."""
        task = asyncio.get_running_loop().create_task(self._write(lambda: self._store(key, text)))
        self._writings.add(task)
        task.add_done_callback(self._writings.discard)

    def _store(self, key: str, text: str) -> None:
        try:
            self._outbox.set_meta(key, text)
        except MonitorError as error:
            log.error("%s", error)

    def _look_at_the_clock(self) -> None:
        """The time of a hold may be over; else its end is waited for."""
        hold, now = self._hold, self._host.clock.now()
        left = hold.left(self._grace, now) if hold is not None else 0.0
        if hold is not None and not left and not hold.over and not hold.outcome:
            if self._grace:
                log.warning("%s takes longer than DEPLOYMENT_GRACE: nothing is held back now", hold.label)
            self._watched = now
            self._job(self._host.installation.end())
            self._take(replace(hold, over=True))
            return
        self._alarm.set(now.boottime + left if left else None)
        self._changed()

    def _job(self, work: Work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    # The lists

    def _evidence(self, hold: Hold, ended: float) -> Evidence:
        """What is known of a deployment that has *ended*; seconds since the epoch."""
        installation, now = self._host.installation, self._host.clock.now()
        evidence = Evidence(began=happened(hold.began, now), ended=ended)
        if hold.outcome != Outcome.COMMITTED:
            return evidence
        return replace(
            evidence,
            payload=installation.payload,
            written=frozenset(installation.written),
            modified=frozenset(installation.modified),
            others=frozenset(installation.others),
            image=self._image_of(hold),
            packages=True,
            since=now.wall - (now.boottime - installation.since),
            watched=happened(self._watched, now) if self._watched is not None else None,
        )

    async def _follow(self, hold: Hold, evidence: Evidence, before: asyncio.Task[None] | None) -> None:
        """Bring the lists up to it, after those of the one *before*. Another one may begin meanwhile."""
        if before is not None:
            await asyncio.wait([before])
        try:
            self._add_replaced(await rebaseline(self._host, hold, evidence))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # What is held is judged all the same.
            log.error("the lists cannot be brought up to %s", hold.label, exc_info=error)

    # What is run still though a deployment has replaced it

    def _know_replaced(self) -> None:
        try:
            text = self._outbox.meta(REPLACED)
        except MonitorError as error:
            log.error("%s", error)
            return
        if text:
            self._add_replaced(from_text(text, self._host.clock.now().boot_id))

    def _add_replaced(self, files: Iterable[ReplacedFile]) -> None:
        replaced, boot = self._host.replaced, self._host.clock.now().boot_id
        replaced.add(files)
        self._keep(REPLACED, to_text(replaced.files, boot))


def _payload(text: str) -> dict[str, dict[str, int]]:
    """What was stored of the artifact's files; empty: nothing that can be read."""
    try:
        found = json.loads(text)
        return {digest: {name: int(mode) for name, mode in names.items()} for digest, names in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _root_device() -> str:
    return str(Path("/").stat().st_dev)
