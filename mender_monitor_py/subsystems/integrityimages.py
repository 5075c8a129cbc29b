"""Processes that run another file than the one that is at the path of their executable."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing

from mender_monitor_py.baseline import quote
from mender_monitor_py.commandline import printable
from mender_monitor_py.host.filestates import executable
from mender_monitor_py.host.host import Host
from mender_monitor_py.integritylist import Executable, Verdict
from mender_monitor_py.model import Details, Observation, Subject

_DELETED = " (deleted)"
_MAX_SHOWN = 3


class ImageFindings:
    """
    Looks at what the processes of listed executables run.

    *judge* says what is wrong with a file that is run under a path. *observations* are the findings;
    *replaced* are the processes, by path, that run what a deployment has replaced: they are none.
    """

    def __init__(self, host: Host, judge: Callable[[str, Executable], Verdict], level: str) -> None:
        self._host = host
        self._judge = judge
        self._level = level
        self._verdicts: dict[tuple[str, int, int], Verdict] = {}
        self.observations: list[Observation] = []
        self.replaced: dict[str, list[int]] = {}

    def forget(self) -> None:
        """What is expected has changed."""
        self._verdicts.clear()

    async def look(self, paths: Collection[str], names: Callable[[str], Iterable[str]]) -> None:
        """
        Look at all processes. *names* gives the paths by which a file may be listed, from where it is.

        Raises UnknownError.
        """
        running = self._running(paths, names)
        verdicts = {}
        for (path, device, inode), pids in running.items():
            verdicts[path, device, inode] = await self._verdict(path, device, inode, pids[0])
        self._verdicts = verdicts  # what nobody runs any more is forgotten
        self.observations = [
            self._observation(key, verdict, running[key])
            for key, verdict in sorted(verdicts.items())
            if verdict.kind
        ]

    def _running(
        self, paths: Collection[str], names: Callable[[str], Iterable[str]]
    ) -> dict[tuple[str, int, int], list[int]]:
        """By path and file: the processes that run another file than what is at the path."""
        procfs = self._host.procfs
        self.replaced = {}
        found: dict[tuple[str, int, int], list[int]] = {}
        # A service manager may have given us mounts of our own; the others have those of the first process.
        ours = {procfs.namespace("mnt", "self"), procfs.namespace("mnt", 1)}
        for pid in procfs.pids():
            try:
                name = (procfs.executable(pid) or "").removesuffix(_DELETED)
                path = next((one for one in names(name) if one in paths), "") if name else ""
                if not path:
                    continue
                if known := self._host.replaced.path(pid):
                    self.replaced.setdefault(known, []).append(pid)
                    continue
                image = os.stat(f"{procfs.path}/{pid}/exe")  # noqa: PTH116
            except OSError:  # it ended, or is not ours to see
                continue
            namespace = procfs.namespace("mnt", pid)
            there = _stat(path)
            if there is not None and (there.st_dev, there.st_ino) == (image.st_dev, image.st_ino):
                continue
            # In a container the same path is another file. In one of our own file system it is not.
            if (namespace and namespace in ours) or (there is not None and there.st_dev == image.st_dev):
                found.setdefault((path, image.st_dev, image.st_ino), []).append(pid)
        return found

    async def _verdict(self, path: str, device: int, inode: int, pid: int) -> Verdict:
        key = (path, device, inode)
        if key in self._verdicts:
            return self._verdicts[key]
        found = await as_it_runs(self._host, pid, path, (device, inode))
        return self._judge(path, found) if found is not None else Verdict()

    def _observation(self, key: tuple[str, int, int], verdict: Verdict, pids: list[int]) -> Observation:
        path = printable(key[0])
        lines = [f"{len(pids)} processes run another file than the one that is at {path} now:"]
        lines += map(printable, verdict.reasons)
        for pid in pids[:_MAX_SHOWN]:
            who = self._host.procfs.describe(pid)
            lines += who.lines() if who else [f"pid: {pid}, which has ended"]
        if len(pids) > _MAX_SHOWN:
            lines.append(f"further pids: {' '.join(map(str, pids[_MAX_SHOWN:20]))}")
        return Observation(
            self._level,
            f"Executable {path} {verdict.kind}",
            Subject(f"{path} as it runs", "process", verdict.kind),
            Details("\n".join(lines)),
            key=f"running {verdict.kind} {quote(key[0])} {key[1]}:{key[2]}",
            cleared_status="not running any more",
        )


async def as_it_runs(
    host: Host, pid: int, path: str, file: tuple[int, int] | None = None
) -> Executable | None:
    """
    The file that *pid* runs, as if it was at *path*; None: it ended, or runs another one than *file* by now.

    *file* is device and inode. Raises UnknownError.
    """
    results = host.scanner.hash([f"{host.procfs.path}/{pid}/exe"])
    async with aclosing(results):
        async for result in results:
            if not result.error and file in (None, (result.device, result.inode)):
                # Of the link in /proc only the file counts.
                return executable(result)._replace(path=path, target="")
    return None


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError:
        return None
