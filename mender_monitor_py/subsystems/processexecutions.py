"""Programs that are executed, by the events of host/processevents.py: each is named, and judged at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from mender_monitor_py.host.host import Host
from mender_monitor_py.host.images import Images, RunningImages
from mender_monitor_py.host.processevents import Execution
from mender_monitor_py.proclist import Image, Opened, is_loader
from mender_monitor_py.subsystems.processverdicts import Verdicts

OPEN_S = 0.01  # from a file's opening to its execution, where nothing tells the latter
AGAIN_S = 0.2  # and on a busy machine
AHEAD_S = 2.0  # the same, where its execution is told, unless it fails
_MAX_EARLY = 4096


class Executions:
    """
    Names what is executed, as *images* do, and keeps it in *running*.

    *judge* is called with each program and the process that runs it; *not_named* with a process and how many
    programs it has executed of which nothing tells the file. A loader that *deny* or *verdicts* list is none.

    A file may be told before it is executed. It is judged afterwards: until then the process is another
    program, with other arguments, and maybe of another user.
    """

    def __init__(
        self,
        host: Host,
        images: Images,
        running: RunningImages,
        verdicts: Verdicts,
        judge: Callable[[Image, int], None],
        not_named: Callable[[int, int], None],
        *,
        deny: bool,
    ) -> None:
        self._host = host
        self._events = host.processes
        self._images = images
        self._running = running
        self._verdicts = verdicts
        self._judge = judge
        self._not_named = not_named
        self._deny = deny
        self._opened: dict[int, tuple[Opened, ...]] = {}  # what is about to be executed, as far as is known
        self._early: set[int] = set()  # those that were told before they had executed what they opened
        self._nameless: dict[int, Execution] = {}  # of these, those whose program nothing names
        self._timers: set[asyncio.TimerHandle] = set()

    def told(self, executions: list[Execution]) -> None:
        """The events have told them."""
        if self._events.sees_exits:
            self._executed(executions)
        else:  # a file was opened for execution; that is not over yet
            self._in(OPEN_S, lambda: self._executed(executions))

    def ended(self, pid: int) -> None:
        self._judge_opened(pid)
        self._running.ended(pid)
        self._early.discard(pid)
        self._nameless.pop(pid, None)

    def lost(self) -> None:
        """Events were lost: what was to come may have been among them."""
        for pid in list(self._opened):
            self._judge_opened(pid)
        self._early.clear()
        self._nameless.clear()

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _executed(self, executions: list[Execution]) -> None:
        if not self._verdicts.known:
            return  # there is no list
        for execution in executions:
            self._judge_opened(execution.pid)
            programs = [group for group in execution.programs if not is_loader(group[-1].path)]
            for group in programs:
                if group is programs[-1] and self._is_ahead(execution, group):
                    self._opened[execution.pid] = group
                else:
                    self._judge_executed(execution.pid, group, ahead=execution.ahead)
            if not execution.ahead:
                self._settle_nameless(execution)
            if not execution.times and execution.pid in self._early:
                self._judge_running(execution.pid)
                if not execution.ahead:
                    self._early.discard(execution.pid)
            if execution.times > len(programs):
                self._name(execution)

    def _is_ahead(self, execution: Execution, group: tuple[Opened, ...]) -> bool:
        """Whether *group* is still to be executed: then it is judged in a moment, at the latest."""
        connector, procfs, pid = self._events.sees_exits, self._host.procfs, execution.pid
        if len(self._opened) >= _MAX_EARLY or (connector and not execution.ahead):
            return False
        try:
            executable = procfs.executable(pid)
        except PermissionError:
            return False
        # Who has tried to execute something before, in vain, seems to be ahead ever after.
        if executable is None or (executable == group[-1].path and procfs.arguments(pid)):
            return False
        self._in(AHEAD_S if connector else AGAIN_S, partial(self._judge_opened, pid))
        return True

    def _judge_opened(self, pid: int) -> None:
        """What was about to be executed has been by now, or never is."""
        group = self._opened.pop(pid, None)
        if group is not None and self._verdicts.known:
            self._judge_executed(pid, group)

    def _judge_executed(self, pid: int, group: tuple[Opened, ...], *, ahead: bool = False) -> None:
        image = self._images.of_opened(group)
        self._judge(image, pid)
        self._running.executed(pid, image)
        # An interpreter may be about to execute itself: its command line is that of what it runs so far.
        if image.script is None or (ahead and image.script and len(group) == 1):
            self._ask_again(pid)

    def _settle_nameless(self, execution: Execution) -> None:
        """All that was told of this process before has happened now."""
        nameless = self._nameless.pop(execution.pid, None)
        # It runs, unless it is gone, or another program was executed since.
        if nameless is not None and (execution.times or not self._judge_running(execution.pid)):
            self._count_missing(nameless)

    def _name(self, execution: Execution) -> None:
        """Not all that was executed has a file that fanotify tells: the process itself has to say."""
        if not self._judge_running(execution.pid):
            self._count_missing(execution)
        elif not self._events.sees_exits:
            self._ask_again(execution.pid)
        elif execution.ahead and len(self._nameless) < _MAX_EARLY:  # what runs is what was there before
            self._nameless[execution.pid] = execution

    def _ask_again(self, pid: int) -> None:
        """Which script *pid* runs could not be read: it has ended, or not begun yet."""
        if not self._events.sees_exits:
            self._in(AGAIN_S, partial(self._judge_running, pid))
        elif len(self._early) < _MAX_EARLY:
            self._early.add(pid)

    def _judge_running(self, pid: int) -> bool:
        """Judge what *pid* runs now; whether that is known."""
        try:
            image = self._images.of_process(pid)
        except PermissionError:
            return False
        if image is not None:
            self._judge(image, pid)
            self._running.executed(pid, image)
        return image is not None

    def _count_missing(self, execution: Execution) -> None:
        """What was executed is gone, and had no file that fanotify could tell."""
        missing = execution.times
        for group in execution.programs:
            # A loader was executed itself, or is all that is left of a program without a file. A glob that
            # covers the folder of the libraries is not meant for that.
            if self._deny or not is_loader(group[-1].path) or self._verdicts.lists(group[-1].path):
                missing -= 1
        if missing > 0 and not self._host.installs(execution.pid):
            self._not_named(execution.pid, missing)

    def _in(self, seconds: float, call: Callable[[], object]) -> None:
        def now() -> None:
            self._timers.discard(timer)
            call()

        timer = asyncio.get_running_loop().call_later(seconds, now)
        self._timers.add(timer)
