"""The deployment that runs: whether it moves, and the alert of one that does not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress

from mender_monitor_py.deploymentlog import fit
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.updates import Updates
from mender_monitor_py.model import Details, Observation, Subject
from mender_monitor_py.pidwatch import lifetime
from mender_monitor_py.subsystems.base import Report
from mender_monitor_py.updateprogress import Change, Outcome, Update, same

STUCK = "Deployment stuck"
SAFETY_S = 600.0  # from look to look while events tell all
MOST_BOOTS = 4
_KEY = "\tstuck"  # no artifact's: what they are called is made fit to be shown

Stood = tuple[str, str, int]


class Standstill:
    """
    Tells a deployment that neither ends nor moves for *limit* seconds (0: never), in which the device runs.

    It moves when the client writes, and when its phase is another. A device that boots again and again may
    never run for so long: one whose client wrote nothing over more than MOST_BOOTS of them stands still, too.
    *stood* is of the memory (:class:`deploymentjudge.Memory`), and *remember* keeps it.
    """

    def __init__(
        self,
        limit: float,
        level: str,
        updates: Updates,
        clock: Clock,
        report: Report,
        stood: Stood,
        remember: Callable[[Stood], None],
    ) -> None:
        self._limit = limit
        self._level = level
        self._updates = updates
        self._clock = clock
        self._report = report
        self._stood = stood
        self._remember = remember
        self._update: Update | None = None  # as it was known last
        self._moved = clock.running()
        self._written = updates.written
        self._stands = True  # since it was told, as far as that is known
        if updates.current is not None:
            self._meet(updates.current)

    def changed(self, change: Change) -> None:
        """The deployment has another state."""
        if change.outcome == Outcome.UNKNOWN:
            return  # when the store can be read again, it may be as before
        before, self._update = self._update, None
        if change.outcome is not None:
            return
        if before is None or not same(before, change.update):
            self._meet(change.update)
        elif before.phase != change.update.phase:
            self._move()
        self._update = change.update

    def stirred(self) -> None:
        """The client may have written."""
        if self._updates.written != self._written:
            self._written = self._updates.written
            self._move()

    def judge(self, failures: Collection[str]) -> float:
        """Returns after how many seconds it is stuck. *failures*: the keys of other alerts that are open."""
        current, told = self._updates.current, self._report.is_bad(_KEY)
        self._report.note("deployment", "" if current is None else _running(current).partition("\n")[0])
        if current is None:
            if told and not self._updates.unknown:
                self._report.gone(failures, "It has ended")
            return SAFETY_S
        left = self._moved + self._limit - self._clock.running() if self._limit else SAFETY_S
        stuck = bool(self._limit) and (left <= 0 or self._stood[2] > MOST_BOOTS)
        if told and not (self._stands and self._limit) and not stuck:
            self._report.gone(failures, "It moves again")
        elif stuck and not told:
            self._stands = True
            self._stand(self._stood[2])
            self._report.observe(self._observation(current))
        return max(left, 0.0) or SAFETY_S

    def _meet(self, update: Update) -> None:
        """It is seen for the first time in this run of the daemon; it may be the one of the last."""
        boot, trace, boots = self._stood
        now = self._clock.now()
        if trace and trace == self._updates.trace:
            boots += boot != now.boot_id
        else:
            boots, self._stands = 0, False
        self._stand(boots)
        # While the device was off, nothing could move.
        running = self._clock.running()
        self._moved = running - min(now.boottime - update.since.boottime, self._still(), running)
        self._update = update

    def _move(self) -> None:
        self._moved = self._clock.running()
        self._stands = False
        self._stood = (self._stood[0], self._stood[1], 0)

    def _stand(self, boots: int) -> None:
        self._stood = (self._clock.now().boot_id, self._updates.trace, boots)
        self._remember(self._stood)

    def _still(self) -> float:
        """The seconds since the client wrote last into a log; 0 when that is not known."""
        wall = self._clock.now().wall
        with suppress(UnknownError):
            return max(wall - max((file.changed / 1e9 for file in self._updates.logs()), default=wall), 0.0)
        return 0.0

    def _observation(self, update: Update) -> Observation:
        name = fit(update.artifact or update.id) or "unknown"
        still = f"for {lifetime(self._clock.running() - self._moved)}"
        if self._stood[2] > MOST_BOOTS:
            still = f"over {self._stood[2]} boots of the device"
        return Observation(
            level=self._level,
            name=STUCK,
            subject=Subject(name, "deployment", "stuck"),
            details=Details(f"{_running(update)}\nit has not moved {still}"),
            key=_KEY,
            cleared_status="moving",
        )


def _running(update: Update) -> str:
    """What runs, for a person."""
    name = fit(update.artifact or update.id) or "an artifact"
    phase = f" in {fit(update.phase)}" if update.phase else ""
    by = f"\ndeployment: {fit(update.id)}" if update.id else "\ninstalled by hand (standalone)"
    return f"{name} is being installed{phase}{by}"
