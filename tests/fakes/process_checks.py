"""The process check on this machine, where others start programs, too: only those of a folder count."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.fanotify import ExecOpens
from mender_monitor_py.host.procconnector import ProcConnector
from mender_monitor_py.host.processevents import ProcessEvents
from mender_monitor_py.model import Alert, CheckId
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.process import ProcessCheck
from tests.fakes.judging import JudgingReport

SLEEP = "import time; print('ready', flush=True); time.sleep(600)"


def has_connector() -> bool:
    async def attempt() -> None:
        (await ProcConnector.open()).close()

    try:
        asyncio.run(attempt())
    except UnknownError:
        return False
    return True


connected = pytest.mark.skipif(os.geteuid() == 0 and not has_connector(), reason="no process connector here")


def check(folder: Path, **values: str) -> ProcessCheck:
    """What is in *folder* must not run; all else may."""
    given = {"PROCESS_ALLOW": f"{folder}/**", "PROCESS_MODE": "deny", "PROCESS_MAX_ALERTS": "1000", **values}
    made = ProcessCheck(Definition(CheckId("process", "all"), given), Settings())
    made.interval = float(values.get("PROCESS_INTERVAL", "600"))
    return made


def without_events(monkeypatch: pytest.MonkeyPatch, *, fanotify: bool = False) -> None:
    async def refused():
        raise UnknownError("no process connector here")

    def denied(self):
        raise UnknownError("not permitted")

    monkeypatch.setattr(ProcConnector, "open", refused)
    if not fanotify:
        monkeypatch.setattr(ExecOpens, "__init__", denied)


def about(report: JudgingReport, text: str | Path) -> list[Alert]:
    return [alert for alert in report.alerts if str(text) in alert.subject.name]


def lasts(report: JudgingReport, label: str) -> bool:
    """Whether *label* is no event any more: it ends when the process does."""
    last = report.states[label].last
    return last is not None and not last.event


async def run(*command: str | Path, **options: Any) -> None:
    words = [str(part) for part in command]
    await asyncio.to_thread(lambda: subprocess.run(words, check=False, **options))


def heard_by(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Who will listen to the events of processes."""
    listeners: list[Any] = []
    listen = ProcessEvents.listen

    async def heard(self, listener):
        listeners.append(listener)
        return await listen(self, listener)

    monkeypatch.setattr(ProcessEvents, "listen", heard)
    return listeners
