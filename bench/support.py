"""A daemon under measurement: its own root, its own bus, and what the kernel says it costs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Cost:
    """What a process has used so far: CPU in seconds, context switches, bytes."""

    cpu: float
    wakeups: int
    written: int
    rss: int
    pss: int

    def since(self, before: Cost) -> Cost:
        return Cost(
            self.cpu - before.cpu,
            self.wakeups - before.wakeups,
            self.written - before.written,
            self.rss,
            self.pss,
        )

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cpu + other.cpu,
            self.wakeups + other.wakeups,
            self.written + other.written,
            self.rss + other.rss,
            self.pss + other.pss,
        )


def family_cost(pid: int, proc: Path = Path("/proc")) -> Cost:
    """That of *pid* and of all that it started."""
    children = [child for file in proc.glob(f"{pid}/task/*/children") for child in file.read_text().split()]
    return sum((family_cost(int(child), proc) for child in children), cost(pid, proc))


def cost(pid: int, proc: Path = Path("/proc")) -> Cost:
    """Read from /proc, see proc(5): schedstat counts nanoseconds of every thread, io what was written."""
    folder = proc / str(pid)
    cpu = sum(int(task.read_text().split()[0]) for task in folder.glob("task/*/schedstat")) / 1e9
    wakeups = sum(
        _field(task.read_text(), "voluntary_ctxt_switches") for task in folder.glob("task/*/status")
    )
    written = _field((folder / "io").read_text(), "write_bytes")
    rollup = (folder / "smaps_rollup").read_text()
    return Cost(cpu, wakeups, written, _field(rollup, "Rss") * 1024, _field(rollup, "Pss") * 1024)


def _field(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


class Device:
    """A folder as a device's root, with a daemon in it; a context manager."""

    def __init__(self, root: Path, python: str = sys.executable, bus: str = "") -> None:
        self.root = root
        self.etc = root / "etc/mender-monitor"
        self.database = root / "var/lib/mender-monitor/outbox.db"
        # As where a package installed it: compiled beforehand.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.environment = {
            **inherited,
            "MENDER_MONITOR_ROOT": str(root),
            "PYTHONPATH": str(PROJECT),
            "DBUS_SYSTEM_BUS_ADDRESS": bus or f"unix:path={root}/no-bus",
        }
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        # As on a device: /run is memory.
        self._memory = tempfile.TemporaryDirectory(dir="/dev/shm")
        root.mkdir(exist_ok=True)
        (root / "run").symlink_to(self._memory.name)
        for folder in ("available", "enabled"):
            (self.etc / "monitor.d" / folder).mkdir(parents=True, exist_ok=True)
        # Nobody is there to send to: alerts stay where they can be counted.
        (self.etc / "monitor.conf").write_text("SEND_ALERT_MAX_INTERVAL_S=3600\n")

    def check(self, subsystem: str, name: str, **values: str) -> None:
        """A check that is enabled."""
        file = self.etc / f"monitor.d/available/{subsystem}_{name}.sh"
        file.write_text("".join(f'{key}="{value}"\n' for key, value in values.items()))
        link = self.etc / f"monitor.d/enabled/{file.name}"
        link.symlink_to(f"../available/{file.name}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, checks: int, timeout: float = 60) -> None:
        """Start the daemon; returns when *checks* checks have looked."""
        log = (self.root / "daemon.log").open("ab")
        program = [self._python, "-m", "mender_monitor_py.monitord"]
        compile_all = [self._python, "-m", "compileall", "-q", str(PROJECT / "mender_monitor_py")]
        subprocess.run(compile_all, env=self.environment, check=True)
        subprocess.run([*program, "--version"], env=self.environment, check=True, stdout=subprocess.DEVNULL)
        self._process = subprocess.Popen(program, env=self.environment, stderr=log, cwd="/")
        deadline = time.monotonic() + timeout
        while self.looked() < checks:
            if time.monotonic() > deadline or self._process.poll() is not None:
                sys.exit(f"the daemon did not start: {(self.root / 'daemon.log').read_text()}")
            time.sleep(0.05)

    def looked(self) -> int:
        """How many checks know their state."""
        try:
            status = json.loads((self.root / "run/mender-monitor/status.json").read_text())
        except (OSError, ValueError):
            return 0
        if self._process is None or status["daemon"]["pid"] != self._process.pid:
            return 0
        return sum(check["state"] not in ("starting", "unknown", "failed") for check in status["checks"])

    def newest(self) -> int:
        """The number of the newest alert in the outbox."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            found: int = connection.execute("SELECT coalesce(max(seq), 0) FROM alerts").fetchone()[0]
        finally:
            connection.close()
        return found

    def wait_for_alert(self, after: int, timeout: float = 20) -> float:
        """The monotonic time at which an alert newer than number *after* was in the outbox."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        deadline = time.monotonic() + timeout
        try:
            while True:
                now = time.monotonic()
                if connection.execute("SELECT coalesce(max(seq), 0) FROM alerts").fetchone()[0] > after:
                    return now
                if now > deadline:
                    sys.exit(f"no alert came: {(self.root / 'daemon.log').read_text()}")
                time.sleep(0.0005)
        finally:
            connection.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._memory.cleanup()
