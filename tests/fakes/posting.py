"""Posts through a real sender process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from mender_monitor_py.paths import Paths
from mender_monitor_py.protocol import Reply
from mender_monitor_py.senderprocess import SenderProcess
from mender_monitor_py.settings import Settings

DEFAULTS = Settings()
BODY = [{"name": "ä\u0000", "level": "OK"}]


def post(paths: Paths, settings: Settings = DEFAULTS, times: int = 1) -> list[Reply]:
    """Post the same body a few times through one sender process."""

    async def run(link: SenderProcess) -> list[Reply]:
        return [await link.post("alert", BODY) for _ in range(times)]

    return with_process(paths, run, settings)


def with_process(
    paths: Paths, work: Callable[[SenderProcess], Awaitable[list[Reply]]], settings: Settings = DEFAULTS
) -> list[Reply]:
    async def run() -> list[Reply]:
        link = SenderProcess(paths, lambda: settings)
        try:
            return await work(link)
        finally:
            await link.close()

    return asyncio.run(run())


def mender_conf(paths: Paths, **values: Any) -> None:
    paths.mender_conf.parent.mkdir(parents=True, exist_ok=True)
    paths.mender_conf.write_text(json.dumps(values))
