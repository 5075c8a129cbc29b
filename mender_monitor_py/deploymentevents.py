"""
What a state script of ours wrote down: a small file of ``key=value`` lines in the spool, ended by ``end=1``.

The scripts are shell, and run where nothing of ours may be installed; see scripts/state-scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mender_monitor_py.updateprogress import STANDALONE
from mender_monitor_py.updatestate import MAX_NAME

MAX_SIZE = 4096
_NAME = re.compile(r"([A-Za-z]{1,40})_(Enter|Leave|Error)")
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Event:
    """
    The client ran the script of *state* and *action*.

    *mode* is ``managed`` or ``standalone``, empty when the script could not tell. *boot_id* and *boottime*
    are the device's then, *wall* its clock.
    """

    state: str
    action: str
    mode: str
    deployment: str
    artifact: str
    boot_id: str
    boottime: float
    wall: float

    @property
    def failing(self) -> bool:
        """Whether the client runs this script only when something has failed."""
        return self.action == "Error" or self.state == "ArtifactFailure"

    @property
    def committed(self) -> bool:
        """Whether the client runs it only when the commit of what is installed by hand has worked."""
        return self.mode == STANDALONE and (self.state, self.action) == ("ArtifactCommit", "Leave")


def parse(data: bytes) -> Event | None:
    """The event in a file of the spool; None while it is not whole. Raises ValueError when it is none."""
    if len(data) > MAX_SIZE:
        raise ValueError("it is too long")
    lines = data.decode(errors="replace").split("\n")
    values = {key: value for key, _, value in (line.partition("=") for line in lines)}
    if values.get("end") != "1":
        return None
    name = _NAME.match(values.get("script", ""))
    if name is None:
        raise ValueError("it names no state script")
    mode = values.get("mode", "")
    return Event(
        state=name[1],
        action=name[2],
        mode=mode if mode in ("managed", "standalone") else "",
        deployment=values.get("deployment", "")[:MAX_NAME],
        artifact=values.get("artifact", "")[:MAX_NAME],
        boot_id=values.get("boot", "")[:64],
        boottime=_number(values.get("uptime", "")),
        wall=_number(values.get("wall", "")),
    )


def in_order(events: Iterable[Event]) -> list[Event]:
    """
    The oldest first.

    Within a boot the time since it counts; the clock may have been set meanwhile.
    """
    found = list(events)
    boots = {event.boot_id: event.wall - event.boottime for event in found}
    return sorted(
        found,  # of the same hundredth of a second, the download came first
        key=lambda event: (
            boots[event.boot_id],
            event.boot_id,
            event.boottime,
            event.state != "Download",
        ),
    )


def by_installation(events: Iterable[Event]) -> list[list[Event]]:
    """*events*, in order, apart by what was installed: each begins with its download, if that is told."""
    found: list[list[Event]] = []
    artifact = ""
    for event in events:
        another = bool(event.artifact and artifact and event.artifact != artifact)
        if not found or another or event.state == "Download":
            found.append([])
            artifact = ""
        found[-1].append(event)
        artifact = event.artifact or artifact
    return found


def _number(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else 0.0
