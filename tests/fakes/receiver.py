"""The receiver as a process of the tests' own, reached over its Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Self

MAIN = "from mender_monitor_py.receiver import main; main()"
SOURCE = Path(__file__).resolve().parents[2]
ANONYMOUS = "device"
ALERT = "/api/devices/v1/devicemonitor/alert"

Alert = dict[str, Any]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ReceiverProcess:
    """
    A running receiver; a context manager.

    *options* are its own; *prefix* runs it elsewhere (``ip netns exec NAME``).
    """

    def __init__(self, folder: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        self._socket = folder / "receiver.sock"
        self._command = [
            *prefix, sys.executable, "-c", MAIN, "--port", "0", "--print",
            "--socket", str(self._socket), *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.url = ""

    def start(self) -> None:
        """Returns when it listens. A second start, after :meth:`stop`, uses the same port."""
        if self.url:
            self._command[self._command.index("--port") + 1] = self.url.rpartition(":")[2]
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            cwd=SOURCE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        self._lines = queue.SimpleQueue()
        assert self._process.stdout is not None
        # It waits for whoever does not read.
        self._reader = threading.Thread(target=_read, args=(self._process.stdout, self._lines))
        self._reader.start()
        line = self.line(30)
        assert line.startswith("listening on "), line
        self.url = line.removeprefix("listening on ")

    def stop(self) -> None:
        """End it; with ``--database`` it remembers."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._reader.join()
            self._process = None
            self._socket.unlink(missing_ok=True)

    def line(self, seconds: float) -> str:
        """The next line that it prints. Raises TimeoutError after *seconds*."""
        assert self._process is not None
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError(f"the receiver printed nothing for {seconds:g} s") from None
        if not line.endswith(b"\n"):
            raise AssertionError(f"the receiver ended: {self._process.wait(30)}")
        return line.decode().removesuffix("\n")

    def request(self, method: str, path: str, value: object = None) -> Any:
        """The JSON answer to a request (None: there is no body). Raises AssertionError on 4xx and 5xx."""
        connection = UnixConnection(self._socket)
        try:
            connection.request(method, path, None if value is None else json.dumps(value))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status < 400, (answer.status, body)
        return json.loads(body) if body else None

    def fault(self, kind: str, **fields: object) -> None:
        """Misbehave: see ``mender-monitor-receiver --help``."""
        self.request("POST", "/faults", {"kind": kind, **fields})

    def reset(self) -> None:
        """Behave again."""
        self.request("DELETE", "/faults")

    def alerts(self) -> list[Alert]:
        """Every alert of every device, in the order of arrival."""
        found: list[Alert] = []
        for device in [ANONYMOUS, *(known["id"] for known in self.request("GET", "/devices"))]:
            path = f"/api/management/v1/devicemonitor/devices/{device}/alerts?per_page=500&page="
            page = 1
            while batch := self.request("GET", f"{path}{page}"):
                found += batch
                page += 1
        return sorted(found, key=lambda alert: int(alert["id"]))

    def wait_for(self, test: Callable[[list[Alert]], bool], seconds: float) -> list[Alert]:
        """The alerts as soon as *test* holds of them. Raises AssertionError, with them, after *seconds*."""
        end = time.monotonic() + seconds
        while not test(alerts := self.alerts()):
            try:
                self.line(max(0.0, end - time.monotonic()))
            except TimeoutError as error:
                told = "\n".join(f"{a['timestamp']} {a['level']} {a['name']}" for a in alerts)
                raise AssertionError(f"not within {seconds:g} s; received:\n{told}") from error
        return alerts

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _read(pipe: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Keep the lines of *pipe*, and one without an end behind the last of them."""
    with pipe:
        for line in pipe:
            lines.put(line)
    lines.put(b"")
