"""Starts the program rebaseline.py, which brings the lists up to a deployment, and tells what it did."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mender_monitor_py.deployed import Evidence
from mender_monitor_py.errors import MonitorError
from mender_monitor_py.hold import Hold
from mender_monitor_py.host.host import Host
from mender_monitor_py.paths import ROOT_VARIABLE
from mender_monitor_py.replacedfiles import ReplacedFile, from_json

REBASELINE_S = 600.0  # a look at all files of a slow device
_PACKAGE = Path(__file__).parents[1]
_MAX_ANSWER = 256 * 1024

log = logging.getLogger(__name__)


async def rebaseline(host: Host, hold: Hold, evidence: Evidence) -> list[ReplacedFile]:
    """
    Bring the lists up to the deployment of *hold*, in a process outside the sandbox.

    The files that it has replaced and that are run still. What fails is in the log.
    """
    file = host.paths.run / "deployment.json"
    same_boot = hold.began.boot_id == host.clock.now().boot_id
    given = {
        **evidence.to_json(),
        "device": hold.device,
        "boottime": hold.began.boottime if same_boot else None,
    }
    try:
        await asyncio.to_thread(_write, file, given)
        done = await host.runner.run(
            [sys.executable, "-P", str(_PACKAGE / "rebaseline.py"), str(file)],
            timeout=REBASELINE_S,
            limit=_MAX_ANSWER,
            errors=False,
            env={"PYTHONPATH": str(_PACKAGE.parent), ROOT_VARIABLE: str(host.paths.root)},
        )
    except (MonitorError, OSError) as error:
        log.error("the lists cannot be brought up to %s: %s", hold.label, error)
        return []
    finally:
        file.unlink(missing_ok=True)
    if done.status != 0:
        log.error("the lists were not all brought up to %s: status %s", hold.label, done.status)
    answers = list(_answers(done.output))
    _tell(hold.label, [one for one in answers if "replaced" not in one])
    return [from_json(one["replaced"]) for one in answers if "replaced" in one]


def _answers(output: bytes) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        with suppress(ValueError):  # it was ended in the middle
            yield json.loads(line)


def _tell(label: str, answers: Iterable[dict[str, Any]]) -> None:
    for told in answers:
        if "unread" in told:
            log.warning("no list follows what the update client wrote: %s", told["unread"])
            continue
        if "problem" in told:
            log.warning("%s: its list stays as it is: %s", told["check"], told["problem"])
            continue
        log.info("%s: %d entries of its list follow %s", told["check"], told["entries"], label)
        for row in told["told"]:
            log.info("%s: %s", told["check"], row)


def _write(file: Path, value: object) -> None:
    """As JSON, piece by piece: of a hundred thousand paths the whole text is much for a small device."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        json.dump(value, opened)
