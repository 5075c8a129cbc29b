"""
What the check of deployments costs, and how fast it is: looks, whole deployments, waiting, state scripts.

    python -m bench.deployments [--rounds 10] [--seconds 60] [--python /usr/bin/python3]

The update client is the stand-in of the tests: it writes the files of the older one. There is no peer:
nothing else tells of deployments on the device.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.support import Cost, Device, cost
from mender_monitor_py.host import menderstore
from mender_monitor_py.host.deploymentlogs import LAST, listing, read
from tests.fakes.update_files import UpdateFiles

SCRIPT = (
    Path(__file__).resolve().parents[1]
    / "scripts/state-scripts/artifact/ArtifactFailure_Enter_50_mender-monitor"
)
PHASES = ("update-store", "update-install", "reboot", "after-reboot", "update-commit", "rollback", "cleanup")


def milliseconds(times: list[float]) -> str:
    return f"median {statistics.median(times):.3g} ms, worst {max(times):.3g} ms"


def looks(client: UpdateFiles, folder: Path) -> None:
    """One look at the store, and one at a long log."""
    client.begin("looks")
    for number in range(2000):
        client.log(f"line {number} of a module that talks a lot about what it is doing just now")
    (log,) = listing(folder)
    for title, look in (
        ("store", lambda: menderstore.read(folder / menderstore.NAME)),
        ("log of 2,000 lines, while it grows", lambda: read(log, LAST)),
        ("log of 2,000 lines, at its end", lambda: read(log)),
    ):
        times = []
        for _ in range(200):
            start = time.perf_counter()
            look()
            times.append((time.perf_counter() - start) * 1000)
        print(f"a look at the {title}: {milliseconds(times)}", flush=True)
    client.end(success=True)


def deployments(device: Device, client: UpdateFiles, rounds: int) -> None:
    """Whole failed deployments: the watcher's CPU, and the time from the log's last line to the alert."""
    times, spent = [], 0.0
    for number in range(rounds):
        time.sleep(1)
        newest, before = device.newest(), cost(device.pid)
        client.begin(f"round-{number}", f"release-{number}")
        for phase in PHASES:
            time.sleep(0.05)
            client.phase(phase, f"release-{number}")
        time.sleep(0.05)
        client.log("Update module terminated abnormally: exit status 1", "error")
        start = time.monotonic()
        client.end(success=False)
        times.append((device.wait_for_alert(newest) - start) * 1000)
        spent += cost(device.pid).since(before).cpu
    print(f"failed deployment, from the end of its log to the stored alert: {milliseconds(times)}")
    print(f"CPU of the watcher a deployment, with its alert: {spent / rounds * 1000:.0f} ms", flush=True)


def waiting(folder: Path, python: str, seconds: float, *, checked: bool) -> Cost:
    """The watcher while nothing is deployed."""
    with Device(folder, python) as device:
        UpdateFiles(folder / "var/lib/mender")
        if checked:
            device.check("deployment", "mender")
        device.start(int(checked))
        time.sleep(5)
        before = cost(device.pid)
        time.sleep(seconds)
        return cost(device.pid).since(before)


def script(folder: Path) -> None:
    """A state script, as the client waits for it."""
    (folder / "var/lib/mender-monitor/deployment.d").mkdir(parents=True)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        subprocess.run(
            [SCRIPT], env={"PATH": "/usr/bin:/bin", "MENDER_MONITOR_ROOT": str(folder)}, check=True
        )
        times.append((time.perf_counter() - start) * 1000)
    print(f"state script: {milliseconds(times)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        looks(UpdateFiles(Path(name) / "looks"), Path(name) / "looks")
        script(Path(name) / "script")
        root = Path(name) / "root"
        with Device(root, options.python) as device:
            client = UpdateFiles(root / "var/lib/mender")
            device.check("deployment", "mender")
            device.start(1)
            deployments(device, client, options.rounds)
        bare, whole = (
            waiting(Path(name) / str(checked), options.python, options.seconds, checked=checked)
            for checked in (False, True)
        )
        minutes = options.seconds / 60
        print(f"while nothing is deployed, a minute: {(whole.cpu - bare.cpu) / minutes:.3f} CPU s more")
        print(f"memory: {(whole.rss - bare.rss) / 2**20:.1f} MiB RSS more")


if __name__ == "__main__":
    main()
