"""
What holding findings back costs: a deployment with its lists, waiting for one, and the inventory script.

    python -m bench.holds [--rounds 3] [--seconds 60] [--files 2000] [--python /usr/bin/python3]

The update client is the stand-in of the tests. A deployment replaces a tenth of the files that an integrity
check lists, from an archive; CPU is that of the watcher and of all that it starts. There is no peer.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from bench.deployments import milliseconds
from bench.support import PROJECT, Cost, Device, cost
from mender_monitor_py.holding import SETTLE_S
from tests.fakes.update_files import UpdateFiles

SCRIPT = PROJECT / "scripts/inventory/mender-inventory-mender-monitor"
SIZE = 50_000


def family_cpu(pid: int) -> float:
    """CPU seconds of *pid* and of all that it started, those that have ended too: proc_pid_stat(5)."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    ended = sum(map(int, stat[13:15])) / 100
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cost(pid).cpu + ended + sum(family_cpu(int(child)) for child in children)


def held(device: Device) -> bool:
    status = json.loads((device.root / "run/mender-monitor/status.json").read_text())
    return bool(status["held"])


def wait(device: Device, *, until: bool) -> None:
    """Until findings are held back, or are not."""
    end = time.monotonic() + 60
    while held(device) is not until:
        if time.monotonic() > end:
            sys.exit(f"nothing is held back, or for ever: {(device.root / 'daemon.log').read_text()}")
        time.sleep(0.01)


def content(number: int, turn: int) -> bytes:
    return f"{number} {turn}".encode().ljust(SIZE, b".")


def install(device: Device, client: UpdateFiles, app: Path, turn: int, files: int) -> tuple[float, float]:
    """One deployment: the seconds from its end until the findings are judged, and the CPU of all."""
    archive = client.tree / "files/app.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    before = family_cpu(device.pid)
    client.begin(f"turn-{turn}", f"release-{turn}")
    client.phase("update-store", f"release-{turn}")
    changed = range(turn % 10, files, 10)
    with tarfile.open(archive, "w") as made:
        for number in changed:
            member = tarfile.TarInfo(f"tool{number}")
            member.size = SIZE
            made.addfile(member, io.BytesIO(content(number, turn)))
    client.phase("update-install", f"release-{turn}")
    wait(device, until=True)
    for number in changed:
        (app / f"tool{number}").unlink()
        (app / f"tool{number}").write_bytes(content(number, turn))
    time.sleep(1)  # all are looked at
    client.phase("update-commit", f"release-{turn}")
    client.end(success=True, artifact=f"release-{turn}")
    start = time.monotonic()
    wait(device, until=False)
    return time.monotonic() - start, family_cpu(device.pid) - before


def deployments(folder: Path, options: argparse.Namespace) -> None:
    """Deployments whose files are on a list; nothing of them may be told."""
    app = folder / "app"
    app.mkdir()
    for number in range(options.files):
        (app / f"tool{number}").write_bytes(content(number, -1))
    root = folder / "root"
    with Device(root, options.python) as device:
        client = UpdateFiles(root / "var/lib/mender")
        device.check("integrity", "app", INTEGRITY_FILES=f"{app}/*")
        learn = "from mender_monitor_py.ctl import main; main()", "baseline", "learn", "integrity", "app"
        command = [options.python, "-c", *learn]
        subprocess.run(command, env=device.environment, check=True, stdout=subprocess.DEVNULL)
        device.start(1)
        time.sleep(2)
        bare = cost(device.pid)
        costs = [install(device, client, app, turn, options.files) for turn in range(options.rounds)]
        whole, alerts = cost(device.pid), device.newest()
    print(f"{options.rounds} deployments, each of {options.files // 10} of {options.files} listed files:")
    print(f"alerts: {alerts}")
    late = [seconds - SETTLE_S for seconds, _ in costs]
    print(f"from the end to the judging: {SETTLE_S:g} s and {milliseconds([1000 * one for one in late])}")
    print(f"CPU of one: median {statistics.median(spent for _, spent in costs):.2f} s")
    print(f"memory: {(whole.rss - bare.rss) / 2**20:.1f} MiB RSS more after all", flush=True)


def waiting(folder: Path, options: argparse.Namespace, *, client: bool) -> Cost:
    """A watcher without checks, on a device with an update client or without."""
    with Device(folder, options.python) as device:
        if client:
            UpdateFiles(folder / "var/lib/mender")
        device.start(0)
        time.sleep(5)
        before = cost(device.pid)
        time.sleep(options.seconds)
        return cost(device.pid).since(before)


def inventory(folder: Path, options: argparse.Namespace) -> None:
    """The inventory script, as the client waits for it, while the daemon runs."""
    with Device(folder, options.python) as device:
        UpdateFiles(folder / "var/lib/mender")
        device.start(0)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            subprocess.run([SCRIPT], env=device.environment, check=True, stdout=subprocess.DEVNULL)
            times.append((time.perf_counter() - start) * 1000)
    print(f"inventory script: {milliseconds(times)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inventory(folder / "inventory", options)
        deployments(folder, options)
        bare, whole = (waiting(folder / str(client), options, client=client) for client in (False, True))
    minutes = options.seconds / 60
    cpu, wakeups = (whole.cpu - bare.cpu) / minutes, (whole.wakeups - bare.wakeups) / minutes
    print(f"with a client that deploys nothing, a minute: {cpu:.4f} CPU s and {wakeups:.1f} wake-ups more")
    print(f"memory: {(whole.rss - bare.rss) / 2**20:.1f} MiB RSS more")


if __name__ == "__main__":
    main()
