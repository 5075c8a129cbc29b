"""
The process of one vulnerability scan: runs the scanner, reads its report, and tells what matters of it.

It runs outside the watcher's sandbox: the runner starts it for the watcher, ``monitorctl scan`` by itself.
Its standard input is one object of JSON, its standard output a line of JSON for each thing that happens:

    {"command": "trivy …", "format": "trivy", "report": "", "pattern": "", "severity": "high",
     "unrated": true, "ignore": "CVE-2023-*", "timeout": 3600, "memory": 536870912, "limit": 2000,
     "lock": "/run/…", "name": "vulnscan trivy", "progress": true}
        {"waiting": "the scan that runs now"}, then {"started": true}, and now and then
        {"progress": {"seconds": 3.0, "memory": 73400320, "processes": 2, "output": 4096}}
        {"finding": {"id": "CVE-2024-1", "package": "openssl", …}} ...
        {"done": {"found": 12, "below": 3, "ignored": 1, "seconds": 14.2, "memory": 209715200}}
     or {"failed": {"failed": "the scanner ended with status 2", "said": ["its last lines"], …}}

The scanner runs at idle priority. It and all that it starts end when their time is over, when they take too
much memory, when this process is told to end, and when nobody listens to it any more.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from mender_monitor_py import sarif, vulnreports, vulntexts
from mender_monitor_py.commandline import shown
from mender_monitor_py.host.processtree import ProcessTree, become_child, limit, take_orphans
from mender_monitor_py.host.regularfile import open_regular
from mender_monitor_py.signalname import signal_name
from mender_monitor_py.vulnerability import Vulnerability, ignored, merged, relevant

MAX_OUTPUT = 64 * 1024 * 1024
MAX_PROCESSES = 500
_ERRORS_KEPT = 4096
_SAID_LINES, _SAID_LENGTH = 10, 300
_READ = 65_536
_TICK_S = 0.25  # from one look at the memory of the scanner to the next
_EXIT_S = 2.0  # from the scanner's end to that of what it left behind with its output
_GRACE_S = 1.0  # from SIGTERM to SIGKILL; the runner gives this process 2 s

PARSERS: dict[str, Callable[[bytes], Iterable[Vulnerability]]] = {
    "debsecan": vulntexts.debsecan,
    "lynis": vulntexts.lynis,
    "trivy": vulnreports.trivy,
    "grype": vulnreports.grype,
    "osv": vulnreports.osv,
    "sarif": sarif.sarif,
}
# These tell by their status that they found something: trivy by --exit-code, grype by --fail-on.
_STATUS_TELLS = frozenset(("trivy", "grype", "osv", "sarif"))
_MOST_STATUS = 126  # of osv-scanner for what it found; a shell's 127 and 128 + N are something else
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_LYNIS_WARNINGS = 78  # sysexits(3): what lynis has for warnings, when error-on-warnings is set


class ScanFailedError(Exception):
    """The scan has no result, and this is why."""


class Scan:
    """One scan, from the *request* to its result."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._begun = time.monotonic()
        self._output = bytearray()
        self._errors = bytearray()
        self._peak = 0
        self._tree = ProcessTree(os.getpid())
        self._grace = _GRACE_S
        self._wakes, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Tell the result. Raises BrokenPipeError when nobody listens."""
        try:
            before = self._report_state()
            status = self._scanner()
            found = self._parsed(self._report(before), status)
        except ScanFailedError as error:
            tell({"failed": {"failed": str(error), "said": self._said(), **self._spent()}})
            return
        request = self._request
        telling, below, hidden = relevant(
            found,
            request["severity"],
            ignored(request["ignore"]),
            datetime.now().date(),
            unrated=request["unrated"],
        )
        for one in telling[: request["limit"]]:
            tell({"finding": asdict(one)})
        tell({"done": {"found": len(telling), "below": below, "ignored": hidden, **self._spent()}})

    def end(self) -> None:
        """End the scanner and all that it started."""
        self._tree.end(self._grace)

    # The scanner

    def _scanner(self) -> int:
        """Run the scanner to its end; its exit status."""
        out, errors = (os.pipe2(os.O_CLOEXEC) for _ in range(2))
        try:
            child = os.fork()
            if child == 0:
                self._become_scanner(out[1], errors[1])
            os.close(out[1])
            os.close(errors[1])
            return self._watch(child, out[0], errors[0])
        finally:
            self.end()
            os.close(out[0])
            os.close(errors[0])

    def _become_scanner(self, out: int, errors: int) -> NoReturn:
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for source, target in ((nothing, 0), (out, 1), (errors, 2)):
                os.dup2(source, target)
            become_child()
            limit(self._request["memory"])
            os.chdir("/")
            shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
            os.execv(shell, [shell, "-c", self._request["command"]])  # noqa: S606
        except (OSError, ValueError) as error:
            os.write(2, f"{error}\n".encode(errors="backslashreplace"))
        finally:
            os._exit(127)

    def _watch(self, child: int, out: int, errors: int) -> int:
        """Read what the scanner says until it has ended. Raises ScanFailedError, BrokenPipeError."""
        poll = select.poll()
        for fd in (out, errors, self._wakes):
            poll.register(fd, select.POLLIN)
        poll.register(1, 0)  # POLLERR, when nobody reads what we tell, comes unasked
        status: int | None = None
        # On a clock that stands still while the device sleeps: the scanner does, too.
        reading, until, look_at = True, self._begun + self._request["timeout"], 0.0
        while reading or status is None:
            for fd, events in poll.poll(_TICK_S * 1000):
                if fd == out and not self._take(out, self._output, MAX_OUTPUT):
                    reading = False
                    poll.unregister(out)
                elif fd == errors and not self._take(errors, self._errors, 0):
                    poll.unregister(errors)
                elif fd == self._wakes:
                    os.read(self._wakes, 4096)
                elif fd == 1 and events:
                    raise BrokenPipeError
            ended = self._tree.reap(child)
            if ended is not None:
                # What it left behind may hold its output.
                status, until = ended, min(until, time.monotonic() + _EXIT_S)
            now = time.monotonic()
            if now >= look_at:
                look_at = now + _TICK_S
                self._judge_size()
            if now >= until:
                break
        if status is None:
            raise ScanFailedError(f"the scanner did not end within {self._request['timeout']} s")
        return status

    def _take(self, fd: int, kept: bytearray, most: int) -> bool:
        """Add what can be read to *kept*; False: there will be no more. Of errors the end is kept."""
        data = os.read(fd, _READ)
        kept += data
        if not most:
            del kept[:-_ERRORS_KEPT]
        elif len(kept) > most:
            raise ScanFailedError(f"the scanner printed more than {most // 2**20} MiB")
        return bool(data)

    def _judge_size(self) -> None:
        processes, memory = self._tree.size()
        self._peak = max(self._peak, memory)
        if self._request["progress"]:
            seconds = round(time.monotonic() - self._begun, 1)
            counts = {"memory": memory, "processes": processes, "output": len(self._output)}
            tell({"progress": {"seconds": seconds, **counts}})
        if memory > self._request["memory"]:
            most = self._request["memory"] // 2**20
            raise ScanFailedError(f"the scanner took more than {most} MiB of memory (VULNSCAN_MEMORY)")
        if processes > MAX_PROCESSES:
            self._grace = 0.0  # each moment makes more of them
            raise ScanFailedError(f"the scanner started more than {MAX_PROCESSES} processes")

    # Its report

    def _report_state(self) -> tuple[int, ...]:
        """What tells a report file from the one that is written next."""
        if not self._request["report"]:
            return ()
        try:
            status = Path(self._request["report"]).stat()
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _report(self, before: tuple[int, ...]) -> bytes:
        path = self._request["report"]
        if not path:
            return bytes(self._output)
        self._output.clear()
        try:
            file = open_regular(path)
        except OSError as error:
            raise ScanFailedError(f"the scanner's report {path}: {error.strerror}") from error
        with file:
            if before and self._report_state() == before:
                raise ScanFailedError(f"the scanner wrote no new {path}")
            data = file.read(MAX_OUTPUT + 1)
        if len(data) > MAX_OUTPUT:
            raise ScanFailedError(f"the scanner's report {path} has more than {MAX_OUTPUT // 2**20} MiB")
        return data

    def _parsed(self, data: bytes, status: int) -> list[Vulnerability]:
        kind = self._request["format"]
        tells = kind in _STATUS_TELLS and 0 < status <= _MOST_STATUS
        if status and not tells and not (kind == "lynis" and status == _LYNIS_WARNINGS):
            raise ScanFailedError(_why(status))
        self._output.clear()
        limit(self._request["memory"])
        try:
            if kind == "lines":
                found = merged(vulntexts.lines(data, vulntexts.pattern(self._request["pattern"])))
            else:
                found = merged(PARSERS[kind](data))
        except ValueError as error:
            raise ScanFailedError(
                _why(status) if status else f"the report is no {kind} report: {error}"
            ) from error
        except MemoryError:
            most = self._request["memory"] // 2**20
            raise ScanFailedError(
                f"the report takes more than {most} MiB to read (VULNSCAN_MEMORY)"
            ) from None
        if status and not found:
            raise ScanFailedError(_why(status))
        return found

    def _said(self) -> list[str]:
        """The scanner's last words, secrets in them masked."""
        words = self._errors or self._output[-_ERRORS_KEPT:]
        lines = words.decode(errors="replace").splitlines()
        return [shown(line.split(), _SAID_LENGTH) for line in lines if line.strip()][-_SAID_LINES:]

    def _spent(self) -> dict[str, float]:
        return {"seconds": round(time.monotonic() - self._begun, 1), "memory": self._peak}


def _why(status: int) -> str:
    if status < 0:
        return f"the scanner was ended by {signal_name(-status)}"
    if status == 127:
        return "the scanner is not there (status 127)"
    return f"the scanner ended with status {status}"


def tell(message: dict[str, Any]) -> None:
    """A line for whoever asked."""
    sys.stdout.write(json.dumps(message, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def take_turn(path: str, name: str) -> int:
    """Wait until no other scan runs; the lock, to be kept open. Raises OSError."""
    import fcntl

    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell({"waiting": os.pread(lock, 200, 0).decode(errors="replace").strip()})
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{name}\n".encode(errors="replace"), 0)
    return lock


def _is_told_to_end(*_: object) -> NoReturn:
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """The program: one request."""
    request = json.load(sys.stdin)
    os.environ.pop("PYTHONPATH", None)  # for this program, not for the scanner
    for number in _ENDS:
        signal.signal(number, _is_told_to_end)
    try:
        take_orphans()
        take_turn(request["lock"], request["name"])
        tell({"started": True})
        Scan(request).run()
    except (KeyboardInterrupt, BrokenPipeError):
        ProcessTree(os.getpid()).end(_GRACE_S)  # it may have been told so while it ended the scanner
        # Nobody reads: what is left in the buffer must not be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        with suppress(BrokenPipeError):
            tell({"failed": {"failed": f"{error.filename or 'the scan'}: {error.strerror}"}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
