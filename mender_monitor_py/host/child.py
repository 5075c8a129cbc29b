"""Programs of this package that work for the watcher in a process of their own: asked once, then gone."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mender_monitor_py.errors import UnknownError

_PACKAGE = Path(__file__).parents[1]
_MAX_LINE = 256 * 1024


async def ask(module: str, request: Mapping[str, Any], data: bytes = b"") -> AsyncGenerator[Any, None]:
    """
    The answers of the program *module* to *request*, which *data* follows: a line of JSON each.

    The program ends when the caller stops listening, and when this process ends: its input is closed then.
    Raises UnknownError when it cannot run, or does not get to its end.
    """
    program = _PACKAGE / f"{module}.py"
    try:
        # By its path, which a list of programs can name. -P: nothing is imported from its folder.
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            program,
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONPATH": str(_PACKAGE.parent)},
            limit=_MAX_LINE,
        )
    except OSError as error:
        raise UnknownError(f"{program} cannot be started: {error.strerror}") from error
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n" + data)
        with suppress(ConnectionError):  # its exit status tells more
            await child.stdin.drain()
        while line := await child.stdout.readline():
            yield json.loads(line)
        status = await child.wait()
    except ValueError as error:
        raise UnknownError(f"{program} answers nonsense: {error}") from error
    finally:
        child.stdin.close()
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
        await child.communicate()  # to the end of its output, so that the pipe is closed
    if status:
        raise UnknownError(f"{program} ended with status {status}")
