"""The findings of the process check, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable

from mender_monitor_py.commandline import printable
from mender_monitor_py.host.hidden import Hidden
from mender_monitor_py.host.procfs import Process
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.proclist import ELSEWHERE, Image

UNNAMED = "+unnamed"


def unexpected(label: str, lines: Iterable[str], *, level: str, event: bool = True) -> Observation:
    """The finding that the program *label* runs, or with level OK that this is right by now."""
    return Observation(
        level=level,
        name=f"Unexpected process {label}",
        subject=Subject(label, "process", "running" if level != OK else "ended"),
        details=Details("\n".join(lines)),
        key=label,
        event=event,
        cleared="It was not seen again",
        cleared_status="ended",
    )


def describe(image: Image, pid: int, who: Process | None, *, deny: bool, again: bool = False) -> list[str]:
    """What a person needs to judge a process. *again*: nobody has asked who it is."""
    on_list = "it is on the list of what must not run" if deny else "it is not on the list of what may run"
    lines = [image.odd or on_list]
    if image.executable.startswith(ELSEWHERE):
        lines.append("another file has this path in the mount namespace of the system, or none")
    if who is not None:
        lines += who.lines()
    else:
        lines += [f"pid: {pid}", f"program: {printable(image.label)}"]
        lines.append("it was seen before" if again else "it has ended")
    if not image.odd and not deny:
        lines.append(f"expected by the entry: {image.row}")
    return lines


def hidden_process(hidden: Hidden, who: Process | None, level: str) -> Observation:
    """The finding that a process hides."""
    lines = [f"process {hidden.pid} does not show in /proc, but {hidden.evidence}"]
    lines += who.lines() if who else ["/proc does not tell what it is"]
    return Observation(
        level=level,
        name=f"Hidden process {hidden.pid}",
        subject=Subject(str(hidden.pid), "process", "hidden"),
        details=Details("\n".join(lines)),
        key=f"hidden {hidden.pid}",
        cleared_status="ended",
    )


def unnamed(number: int, pid: int, parent: Process | None, check: str, level: str) -> Observation:
    """The finding that programs ran of which nothing shows what they were."""
    lines = [
        f"{number} programs were executed of which neither /proc nor fanotify shows the file",
        f"the last one was pid {pid}",
        *(["its parent:", *parent.lines()] if parent else []),
    ]
    return Observation(
        level=level,
        name="Processes that could not be named",
        subject=Subject(check, "process", "unnamed"),
        details=Details("\n".join(lines)),
        key=UNNAMED,
        event=True,
        cleared="None was seen again",
        cleared_status="ended",
    )
