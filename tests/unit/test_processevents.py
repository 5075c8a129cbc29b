"""What was executed, by what fanotify tells alone."""

from __future__ import annotations

import os

from mender_monitor_py.host.procconnector import EXEC, EXIT, FORK, Event
from mender_monitor_py.host.processevents import Execution, Exit, ProcessEvents
from mender_monitor_py.proclist import Opened

PROGRAM, LOADER = "/usr/bin/cat", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
OPENED = Opened(0, PROGRAM, b"\x7fELF", 1, 2)


class Opens:
    """The files that were opened to be executed, a list for each time that they are read."""

    lost = 0

    def __init__(self) -> None:
        self.next: list[Opened] = []

    def read(self) -> list[Opened]:
        found, self.next = self.next, []
        return found


class Listener:
    def __init__(self) -> None:
        self.programs: list[str] = []

    def executed(self, executions: list[Execution]) -> None:
        self.programs += [group[-1].path for one in executions for group in one.programs]

    def exited(self, exits: list[Exit]) -> None: ...

    def events_lost(self) -> None: ...

    def mounts_changed(self) -> None: ...


def test_a_loader_that_is_read_later_belongs_to_its_program_however_many_ran_before() -> None:
    """Nothing tells that a process has ended, and what is kept of each is bounded."""
    events, opens, listener = ProcessEvents(), Opens(), Listener()
    events._opens = opens  # type: ignore[assignment]
    events._listeners.append(listener)
    for pid in range(1, 20_000):
        for path in (PROGRAM, LOADER):
            opens.next.append(OPENED._replace(pid=pid, path=path))
            events._read_opens()
    assert set(listener.programs) == {PROGRAM}
    assert len(listener.programs) == 19_999
    assert len(events._opening_of) < 5_000


def test_what_was_opened_before_it_is_executed_is_told_then_too() -> None:
    """Another process's event comes between: the files are known, the command line is still the old one."""
    events, opened = ProcessEvents(), OPENED._replace(pid=7)
    other, own = (Event(EXEC, pid, pid, 0, 0) for pid in (8, 7))
    assert events._executions([other], [opened]) == [
        Execution(7, 1, ((opened,),), ahead=True),
        Execution(8, 1, ()),
    ]
    assert events._executions([own], []) == [Execution(7, 0, ())]
    assert events._executions([own], []) == [Execution(7, 1, ())]


def test_the_family_keeps_what_has_ended_until_its_number_is_anothers() -> None:
    """What it has written is read later; a number that another process has is that one's."""
    events = ProcessEvents()
    events.follow([1])
    events._exits([fork(1, 2), fork(2, 3), ended(3), ended(2)])
    assert events.family == {1, 2, 3}
    events._exits([fork(9, 3)])
    assert events.family == {1, 2}
    events._exits([ended(3), fork(1, 3)])
    assert events.family == {1, 2, 3}
    for pid in range(10, 20_000):
        events._exits([fork(1, pid), ended(pid)])
    assert {1, 3, 19_999} <= events.family and len(events.family) < 5_000
    assert 2 not in events.family


def test_a_number_of_the_family_that_another_has_unseen_is_not_of_it() -> None:
    """Who starts so many that events are lost may get one."""
    events, gone = ProcessEvents(), 1 << 30
    ours = os.getpid()
    events.follow([1])
    events._exits([fork(1, ours), fork(1, gone), ended(ours), ended(gone)])
    events._forget_ended()
    assert events.family == {1, gone}
    events._exits([fork(1, ours)])
    events._forget_ended()
    assert events.family == {1, ours, gone}


def fork(parent: int, pid: int) -> Event:
    return Event(FORK, parent, parent, pid, pid)


def ended(pid: int) -> Event:
    return Event(EXIT, pid, pid, 0, 0)
