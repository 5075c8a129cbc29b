"""
Vulnerability scans by a process of their own (mender_monitor_py/vulnscanner.py), outside the watcher.

The runner starts it for the watcher. Who runs one by hand puts its result into :func:`handed_in`'s folder,
where the watcher finds it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.regularfile import open_regular
from mender_monitor_py.host.runner import Runner
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.vulnerability import Vulnerability

MAX_FOUND = 2000
PROGRAM = f"{__package__.partition('.')[0]}.vulnscanner"
_PACKAGE = Path(__file__).parents[1]
# By its path, which a list of programs can name. -P: nothing is imported from its folder.
COMMAND = (sys.executable, "-P", str(_PACKAGE / "vulnscanner.py"))
ENVIRONMENT = {"PYTHONPATH": str(_PACKAGE.parent)}
_LINE = 64 * 1024
_MAX_RESULT = 16 * 1024 * 1024
# From the time at which the program should have ended the scanner to that of its own end, at idle priority.
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the program is told; see there. *progress*: whether it tells how far it is."""

    name: str
    command: str
    format: str
    lock: str
    severity: str = "high"
    unrated: bool = True
    ignore: str = ""
    report: str = ""
    pattern: str = ""
    timeout: int = 3600
    memory: int = 512 * 1024 * 1024
    limit: int = MAX_FOUND
    progress: bool = False

    @property
    def descriptor(self) -> int:
        """A descriptor to be read from its begin; the caller closes it."""
        fd = os.memfd_create("scan", os.MFD_CLOEXEC)
        os.write(fd, json.dumps(asdict(self)).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


@dataclass(frozen=True, slots=True)
class Result:
    """
    How a scan ended: *failed* is why there is no result, with what the scanner *said*; empty: it was *found*.

    *total* may be more than that; *below* are not grave enough, *ignored* ones are ignored. *seconds* and
    bytes of *memory* are what it took.
    """

    failed: str = ""
    said: tuple[str, ...] = ()
    found: tuple[Vulnerability, ...] = ()
    total: int = 0
    below: int = 0
    ignored: int = 0
    seconds: float = 0.0
    memory: int = 0

    def to_text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What :meth:`to_text` wrote. Raises ValueError."""
        try:
            fields = json.loads(text)
            found = tuple(_vulnerability(one) for one in fields.pop("found"))
            return cls(found=found, said=tuple(fields.pop("said")), **fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not the result of a scan: {error}") from error


class Collector:
    """Makes a result of the lines that the program tells."""

    def __init__(self) -> None:
        self._found: list[Vulnerability] = []
        self.started = False
        self.waits_for = ""
        self.progress: Mapping[str, float] = {}
        self.result: Result | None = None

    def take(self, line: bytes) -> None:
        """The next line. Raises UnknownError when it is none of the program's."""
        try:
            ((what, value),) = json.loads(line).items()
            if what == "finding":
                self._found.append(_vulnerability(value))
            elif what == "failed":
                self.result = Result(**{**value, "said": tuple(value.get("said", ()))})
            elif what == "done":
                total = value.pop("found")
                self.result = Result(found=tuple(self._found), total=total, **value)
            elif what == "waiting":
                self.waits_for = value
            elif what == "progress":
                self.progress = value
            else:
                self.started = True
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnknownError(f"{PROGRAM} answers nonsense: {error}") from error


def _vulnerability(fields: dict[str, Any]) -> Vulnerability:
    lists = {name: tuple(fields[name]) for name in ("aliases", "places")}
    return Vulnerability(**{**fields, **lists})


async def scan(runner: Runner, request: Request) -> Result:
    """Run a scan to its end. Raises UnknownError when nobody can say how it ended."""
    collector = Collector()
    async with _program(runner, request) as (lines, status):
        try:
            async with asyncio.timeout(None) as patience:
                while line := await lines.readline():
                    collector.take(line)
                    if collector.started and patience.when() is None:
                        patience.reschedule(asyncio.get_running_loop().time() + request.timeout + _PATIENCE_S)
                ended = await status
        except TimeoutError:
            return Result(failed=f"the report could not be read within {_PATIENCE_S:.0f} s")
        except ValueError as error:
            raise UnknownError(f"{PROGRAM} answers nonsense: {error}") from error
    if collector.result is None:
        raise UnknownError(f"{PROGRAM} ended with status {ended}")
    return collector.result


@asynccontextmanager
async def _program(
    runner: Runner, request: Request
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.Future[int]]]:
    """The program as it runs: what it tells, and its exit status. It ends with the context."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    told = request.descriptor
    try:
        process = await runner.start(COMMAND, stdin=told, stdout=writing, env=ENVIRONMENT)
    except BaseException:  # the check may be disabled meanwhile
        os.close(reading)
        raise
    finally:
        os.close(writing)
        os.close(told)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=_LINE)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(reading, "rb", buffering=0)
    )
    status = asyncio.ensure_future(process.wait())
    try:
        yield lines, status
    finally:
        transport.close()
        process.end()
        status.cancel()


def lock(paths: Paths) -> Path:
    """What a scan holds while it runs: one runs at a time."""
    return paths.run / "scan.lock"


# Results of scans that somebody ran by hand.


def folder(paths: Paths) -> Path:
    """Where results are handed in; it is root's, on a memory file system."""
    return paths.run / "scans"


def hand_in(paths: Paths, check: CheckId, result: Result) -> Path:
    """Give *result* to the watcher, which deletes the file when it has it. Raises OSError."""
    place = folder(paths)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = place / f"{check.subsystem}_{check.name}.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(replace(result, found=result.found[:MAX_FOUND]).to_text())
    temporary.replace(path)
    return path


def handed_in(paths: Paths, check: CheckId) -> Result | None:
    """A result that somebody handed in, once. None: there is none. Raises UnknownError."""
    path = folder(paths) / f"{check.subsystem}_{check.name}.json"
    try:
        file = open_regular(path, follow=False)
    except OSError:
        return None
    with file:
        own = os.fstat(file.fileno()).st_uid == os.geteuid()
        data = file.read(_MAX_RESULT)
    with suppress(OSError):
        path.unlink()
    if not own:
        raise UnknownError(f"{path} belongs to another user: it does not count")
    try:
        return Result.from_text(data.decode())
    except ValueError as error:
        raise UnknownError(f"{path}: {error}") from error
