"""
What the inventory script of the update client tells of the monitor: see scripts/inventory.

The client sends its inventory when a value is another than before: there are no moments and counters in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from mender_monitor_py.errors import OutboxError
from mender_monitor_py.outbox import Outbox

META = "contact"

Work = Coroutine[Any, Any, None]

log = logging.getLogger(__name__)


def day_of(moment: float) -> str:
    """The day of a moment in seconds since the epoch, in UTC; empty for 0."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment)) if moment else ""


def text(checks: Iterable[Mapping[str, Any]], last_contact: str) -> str:
    """The attributes, a line each: the number of *checks*, that of alerts that are open, the last contact."""
    states = list(checks)
    alerts = sum(found["told"] for check in states for found in check["findings"])
    unknown = sum(check["state"] in ("unknown", "failed") for check in states)
    return (
        f"mender_monitor_checks={len(states)}\n"
        f"mender_monitor_checks_not_watching={unknown}\n"
        f"mender_monitor_alerts={alerts}\n"
        f"mender_monitor_last_contact={last_contact or 'never'}\n"
    )


class Inventory:
    """
    The file *path*, on a memory file system: it stays when the daemon ends, whose alerts are open still.

    The day of the last contact is kept in *outbox* by *write*.
    """

    def __init__(self, path: Path, outbox: Outbox, write: Callable[[Callable[[], None]], Work]) -> None:
        self._path = path
        self._outbox = outbox
        self._write = write
        self._written = ""
        self._job: asyncio.Task[None] | None = None
        try:
            self._day = outbox.meta(META)
        except OutboxError:
            self._day = ""

    def write(self, checks: Iterable[Mapping[str, Any]], last_contact: float) -> None:
        """Write the file if it would be another. *last_contact*: seconds since the epoch; 0: none yet."""
        if (day := day_of(last_contact)) and day != self._day:
            self._day = day
            self._job = asyncio.get_running_loop().create_task(self._write(self._keep))
        content = text(checks, self._day)
        if content == self._written:
            return
        temporary = self._path.with_suffix(".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
            temporary.replace(self._path)
        except OSError as error:
            log.debug("the inventory is not written: %s", error)
            return
        self._written = content

    def _keep(self) -> None:
        try:
            self._outbox.set_meta(META, self._day)
        except OutboxError as error:
            log.debug("%s", error)
