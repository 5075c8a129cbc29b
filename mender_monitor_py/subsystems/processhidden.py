"""Processes that hide from a listing of /proc, as findings of the process check."""

from __future__ import annotations

from mender_monitor_py.host.hidden import HiddenProcesses
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import Observation
from mender_monitor_py.subsystems.processfindings import hidden_process


class HiddenFindings:
    """Looks for them when that is *due*; without *wanted* there are none."""

    def __init__(self, host: Host, level: str, *, wanted: bool) -> None:
        self._events = host.processes
        self._procfs = host.procfs
        self._hidden = HiddenProcesses(host.procfs)
        self._level = level
        self._wanted = wanted
        self._found: dict[int, Observation] = {}
        self.due = True

    def ended(self, pid: int) -> bool:
        """*pid* has ended; whether it was one of them, so that it is due to tell that."""
        was_hidden = pid in self._found
        self.due = self.due or was_hidden
        return was_hidden

    def look(self) -> list[Observation]:
        """The findings, anew when that is due."""
        if self._wanted and self.due:
            hidden = self._hidden.look(self._events.born, self._events.mounts())
            self._found = {
                one.pid: hidden_process(one, self._procfs.describe(one.pid), self._level) for one in hidden
            }
        self.due = False
        return list(self._found.values())
