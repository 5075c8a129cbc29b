"""The sender process, as the watcher sees it: reached or started when needed, asked, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mender_monitor_py import clientsetup
from mender_monitor_py.paths import Paths
from mender_monitor_py.protocol import MAX_REPLY, NotSent, Reply, Setup, decode, encode
from mender_monitor_py.settings import Settings

log = logging.getLogger(__name__)

# A token that is waited for, twice a request with its own limit, and a slow machine.
_REPLY_TIMEOUT = 300.0
_END_TIMEOUT = 0.5  # the daemon has 2 s to end


class Link(Protocol):
    """How a body gets to the server."""

    async def post(self, to: str, body: Any) -> Reply:
        """Post *body* to ``alert`` or ``config``. What goes wrong is in the reply."""

    async def close(self) -> None:
        """Nothing more for now."""

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""


class SenderProcess:
    """
    One sender process, behind the socket of its unit where there is one, else a child of this process.

    mender.conf, certificates and keys are read each time one is reached, and after each attempt that failed:
    what was missing may be in them by now.
    """

    def __init__(self, paths: Paths, settings: Callable[[], Settings]) -> None:
        self._paths = paths
        self._settings = settings
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._warned: list[str] = []
        self._used: Settings | None = None
        self._setup: Setup | None = None
        self._failed = False

    @property
    def is_open(self) -> bool:
        return self._streams is not None

    async def post(self, to: str, body: Any) -> Reply:
        reply = await self._posted(to, body)
        self._failed = reply.wait is not None
        return reply

    async def _posted(self, to: str, body: Any) -> Reply:
        try:
            reader, writer = await self._opened()
            writer.write(encode({"do": "post", "to": to, "body": body}))
            async with asyncio.timeout(_REPLY_TIMEOUT):
                await writer.drain()
                line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("it ended")
            return Reply.from_message(decode(line))
        except NotSent as error:
            return Reply(error=str(error), wait=error.wait, requests=0)
        except TimeoutError:
            await self.close()
            return Reply(error="the sender process does not answer", wait="server")
        except (OSError, ValueError) as error:
            await self.close()
            return Reply(error=f"the sender process cannot be used: {error}", wait="server")
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        child, self._child = self._child, None
        if streams is not None:
            streams[1].close()
        if child is not None and child.returncode is None:
            try:
                async with asyncio.timeout(_END_TIMEOUT):
                    await child.wait()
            except TimeoutError:
                child.kill()
                await child.wait()

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        settings = self._settings()
        if self._streams is not None and (self._streams[0].at_eof() or settings is not self._used):
            await self.close()  # it had nothing to do for long, or the settings were read again
        if self._streams is None or self._failed:
            self._used = settings
            setup = await self._loaded(settings)
            if self._streams is None:
                self._streams = await self._reached() or await self._started()
            elif setup == self._setup:
                return self._streams
            self._setup = setup
            self._streams[1].write(encode(setup.message()))
        return self._streams

    async def _loaded(self, settings: Settings) -> Setup:
        setup, warnings = await clientsetup.load(self._paths, settings)
        for warning in warnings:
            if warning not in self._warned:
                log.warning("%s", warning)
        self._warned = warnings
        return setup

    async def _reached(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        path = self._paths.sender_socket
        if not path.is_socket():
            return None
        try:
            return await asyncio.open_unix_connection(path, limit=MAX_REPLY)
        except ConnectionRefusedError:  # its unit was stopped
            return None

    async def _started(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        package = Path(__file__).parent
        with theirs:
            try:
                self._child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # by its path, which a list of programs can name
                    package / "postman.py",
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    env={**os.environ, "PYTHONPATH": str(package.parent)},
                )
            except BaseException:
                ours.close()
                raise
        return await asyncio.open_unix_connection(sock=ours, limit=MAX_REPLY)
