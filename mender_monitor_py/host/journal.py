"""
Entries of the journal, as lines of JSON, from where they were left: the output of journalctl(1).

A process of its own reads the files: they hold what strangers write, the watcher needs no library for it, and
it goes on over rotation and vacuum.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path

from mender_monitor_py.errors import UnknownError

log = logging.getLogger(__name__)

MAX_LINE = 512 * 1024
_READ = 65_536
_BACKOFF_S = (1.0, 60.0)
_HEALTHY_S = 60.0
_STEADY_S = 1.0
_ANEW_S = 900.0  # a reader that has been silent for so long is replaced, whatever the reason of its silence
_ASK_S = 60.0
_END_S = 5.0
_RUNS = Path("/run/systemd/journal")  # what journald makes when it starts
_FOLDERS = ("/var/log/journal", "/run/log/journal")
_BOOT = re.compile(r"(?:^|;)b=([0-9a-f]{32})")


class Journal:
    """
    The entries that match, in order, each once.

    *matches* are arguments of journalctl(1), *fields* the fields to show. *cursor* is that of the last entry
    that was taken; without one the journal is read from its present end on.
    """

    def __init__(
        self, matches: Sequence[str], fields: Sequence[str], cursor: str, folders: Sequence[str] = _FOLDERS
    ) -> None:
        self._folders = folders
        self._matches = matches
        self._fields = fields
        self._boot = ""
        self._from_start = False
        self._catching_up = False
        self._process: Process | None = None
        self._started = 0.0
        self._not_before = 0.0
        self._wait = 0.0
        self._unread = b""
        self._skipping = False
        self._seen = ""
        self.cursor = cursor
        """That of the last entry that was given; to be stored."""
        self.too_long = 0
        """Entries of more than MAX_LINE bytes, which are left out."""

    async def open(self) -> None:
        """Find where to begin. Raises UnknownError when there is no journal to read."""
        _require_readable(self._folders)
        newest = await self._ask("--lines=1")
        self._boot = _boot(newest)
        if not self._boot:
            raise UnknownError("the journal has no entry yet")
        if not self.cursor:
            self.cursor = newest
        elif (before := _boot(self.cursor)) != self._boot:
            # Where the journal is not kept over boots, there is no place to go on from. Its clock may have
            # begun anew too, so that a place by time would be behind all that there is.
            self._catching_up = bool(await self._ask("--lines=1", f"_BOOT_ID={before}"))
            self._from_start = not self._catching_up

    async def next(self) -> list[bytes]:
        """
        The next entries, once there are some.

        Raises UnknownError when journalctl ends; after a while it may be called again.
        """
        while True:
            lines = self._lines()
            if lines:
                return lines
            if self._process is None:
                await self._start()
            assert self._process is not None and self._process.stdout is not None
            try:
                async with asyncio.timeout(_ANEW_S):
                    data = await self._process.stdout.read(_READ)
            except TimeoutError:
                await self.close()
                continue
            if data:
                self._unread += data
            else:
                await self._ended()

    @property
    def healthy(self) -> bool:
        """Whether journalctl is at work, and did not end at once."""
        return self._process is not None and asyncio.get_running_loop().time() - self._started >= _STEADY_S

    async def close(self) -> None:
        """End journalctl."""
        process, self._process = self._process, None
        self._unread, self._skipping = b"", False
        if process is not None:
            await _end(process)

    def taken(self, cursor: str) -> bool:
        """
        The entry with *cursor* was given. False: it had been taken before.

        journalctl begins with the entry that it is told, and with the next one if that is gone.
        """
        known, self._seen = cursor == self._seen, ""
        self.cursor, self._from_start = cursor, False
        return not known

    def _lines(self) -> list[bytes]:
        *lines, rest = self._unread.split(b"\n")
        if self._skipping and lines:
            self._skipping = False
            del lines[0]
        if len(rest) > MAX_LINE:
            self.too_long += not self._skipping
            self._skipping, rest = True, b""
        elif self._skipping:
            rest = b""
        self._unread = rest
        return lines

    async def _start(self) -> None:
        await asyncio.sleep(max(self._not_before - asyncio.get_running_loop().time(), 0.0))
        self._seen = "" if self._from_start else self.cursor
        self._started = asyncio.get_running_loop().time()
        self._back_off()
        options = ["--all", f"--output-fields={','.join(self._fields)}"]
        if self._seen:
            options.append(f"--cursor={self._seen}")
        if not self._catching_up:
            # --follow is of one boot: by itself that of the kernel, which in a container may be another.
            options += ["--follow", "--no-tail", f"--boot={self._boot}"]
        self._process = await _journalctl(*options, *self._matches)

    async def _ended(self) -> None:
        assert self._process is not None
        status = await _gone(self._process)
        self._process = None
        if status or not self._catching_up:
            raise UnknownError(f"journalctl has ended with status {status}")
        self._catching_up, self._not_before = False, 0.0

    def _back_off(self) -> None:
        """The next start is not before a while from now, the longer the sooner it comes."""
        if self._started - self._not_before >= _HEALTHY_S:
            self._wait = 0.0
        self._wait = min(max(2 * self._wait, _BACKOFF_S[0]), _BACKOFF_S[1])
        self._not_before = self._started + self._wait

    async def _ask(self, *options: str) -> str:
        """The cursor of the entry that journalctl prints; empty for none."""
        process = await _journalctl("--output-fields=_BOOT_ID", *options)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_ASK_S):
                return _cursor(await process.stdout.readline())
        except TimeoutError as error:
            raise UnknownError("journalctl does not answer") from error
        except ValueError:  # longer than a line of a few fields can be
            return ""
        finally:
            await _gone(process)


async def _journalctl(*arguments: str) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            "journalctl", "--quiet", "--no-pager", "--output=json", *arguments,
            stdin=DEVNULL, stdout=PIPE, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except OSError as error:
        raise UnknownError(f"journalctl cannot be started: {error.strerror}") from error


async def _end(process: Process) -> None:
    """End *process*."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    await _gone(process)


async def _gone(process: Process) -> int:
    """The exit status of *process*, which has nothing more to do; it is killed when it does not end."""
    try:
        async with asyncio.timeout(_END_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
    return process.returncode or 0


def _cursor(line: bytes) -> str:
    try:
        found = json.loads(line)["__CURSOR"]
    except (ValueError, TypeError, KeyError):
        return ""
    return found if isinstance(found, str) else ""


def _boot(cursor: str) -> str:
    """The boot that *cursor* is of."""
    found = _BOOT.search(cursor)
    return found[1] if found else ""


def is_kept() -> bool:
    """Whether this device has a journal."""
    return _RUNS.is_dir() or bool(_files(_FOLDERS))


def _files(folders: Sequence[str]) -> list[Path]:
    return [path for folder in folders for path in Path(folder).glob("*/system.journal")]


def _require_readable(folders: Sequence[str]) -> None:
    files = _files(folders)
    if not files:
        raise UnknownError("there is no journal; LOGIN_SOURCE can be the file that syslog writes")
    if not any(os.access(path, os.R_OK) for path in files):
        raise UnknownError("the journal may not be read: that takes root, or the group systemd-journal")
