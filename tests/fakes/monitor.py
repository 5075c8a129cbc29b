"""The real daemon in a folder of the test's own, and what it stores."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.inotify import IN_MODIFY, IN_MOVED_TO, Inotify
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.paths import Paths

PATIENCE = 60.0
PROJECT = Path(__file__).resolve().parents[2]


class Monitor:
    """
    An async context manager that has the daemon running.

    Its alerts stay in the outbox: there is no update client to send them with.
    """

    def __init__(self, paths: Paths, environment: Mapping[str, str] | None = None) -> None:
        self.paths = paths
        self.checks = paths.monitor_d
        self.outbox = Outbox(paths.outbox, Limits(), Clock())
        self.pid = 0
        self._environment = {**os.environ, "PYTHONPATH": str(PROJECT), **(environment or {})}
        self._changed = asyncio.Event()
        self._inotify = Inotify()
        self._process: asyncio.subprocess.Process | None = None
        for folder in (self.checks / "available", self.checks / "enabled", paths.state, paths.run):
            folder.mkdir(parents=True, exist_ok=True)

    def create(self, subsystem: str, name: str, **values: str) -> Path:
        """A check file, written as an editor does."""
        file = self.checks / f"available/{subsystem}_{name}.sh"
        new = file.with_suffix(".new")
        new.write_text("".join(f"{key}='{value}'\n" for key, value in values.items()))
        return new.replace(file)

    def enable(self, subsystem: str, name: str, **values: str) -> None:
        """The same, with a link in ``enabled``."""
        file = self.create(subsystem, name, **values)
        link = self.checks / f"enabled/{file.name}"
        if not link.is_symlink():
            link.symlink_to(f"../available/{file.name}")

    def disable(self, subsystem: str, name: str) -> None:
        (self.checks / f"enabled/{subsystem}_{name}.sh").unlink()

    async def start(self) -> None:
        """Returns when the daemon has looked at its checks once."""
        for folder in (self.paths.state, self.paths.run):
            self._inotify.watch(folder, IN_MODIFY | IN_MOVED_TO, lambda _: self._changed.set())
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mender_monitor_py.monitord", env=self._environment, cwd="/"
        )
        self.pid = self._process.pid
        await self.until(lambda: self.status().get("daemon", {}).get("pid") == self.pid)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after the signal *number*."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        status = await asyncio.wait_for(self._process.wait(), PATIENCE)
        self._process = None
        return status

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.paths.status.read_text())
        except FileNotFoundError:
            return {}
        return found

    def states(self) -> dict[str, str]:
        """The state of each check, by subsystem and name."""
        return {f"{c['subsystem']} {c['name']}": c["state"] for c in self.status().get("checks", [])}

    @contextmanager
    def another_program(self) -> Iterator[Outbox]:
        """The outbox as other programs have it: opened, written to, closed."""
        with closing(Outbox(self.paths.outbox, Limits(), Clock())) as outbox:
            yield outbox

    def alerts(self) -> list[tuple[str, str]]:
        """Level and name of what is stored."""
        return [(record.alert.level, record.alert.name) for record in self.outbox.records()]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds after the daemon wrote its status or the outbox."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                # A write to the outbox is told before it counts: on a slow disk, a moment before.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 1)
                self._changed.clear()

    async def until_state(self, check: str, state: str) -> None:
        await self.until(lambda: self.states().get(check) == state)

    async def until_alerts(self, *wanted: tuple[str, str]) -> None:
        """Wait until the stored alerts are just these, in this order."""
        await self.until(lambda: len(self.alerts()) >= len(wanted))
        assert self.alerts() == list(wanted)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            await self.end()
        self._inotify.close()
        self.outbox.close()
