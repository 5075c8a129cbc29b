"""
From an event on a file to its alert in the outbox: a set-uid bit, an overwritten executable. Needs root.

    python -m bench.file_events [--rounds 20] [--python /usr/bin/python3]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from bench.support import Device
from mender_monitor_py.baseline import render

GOOD = b"good"


def rounds(device: Device, files: list[Path], act: Callable[[Path], None]) -> list[float]:
    """Milliseconds from *act* to the alert, for each of *files*."""
    found = []
    for file in files:
        time.sleep(random.uniform(2, 3))  # a first event after a while, as an attack is
        before = device.newest()
        start = time.monotonic()
        act(file)
        found.append((device.wait_for_alert(before) - start) * 1000)
    return found


def set_bit(file: Path) -> None:
    file.chmod(0o4755)


def overwrite(file: Path) -> None:
    file.write_text("evil")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    with tempfile.TemporaryDirectory() as name, Device(Path(name) / "root", options.python) as device:
        place = Path(name) / "place"
        place.mkdir()
        files = [place / str(number) for number in range(2 * options.rounds)]
        for file in files:
            file.write_bytes(GOOD)
            file.chmod(0o755)
        device.check("setuid", "place", SETUID_PATHS=str(place), SETUID_ALLOW="/none")
        device.check("integrity", "place")
        rows = [f"{sha256(GOOD).hexdigest()} * * * * {file}" for file in files]
        lists = device.etc / "baseline.d"
        lists.mkdir()
        (lists / "integrity_place.list").write_bytes(render("integrity place", 1, rows))
        device.start(2)
        for title, some, act in (
            ("set-uid bit", files[: options.rounds], set_bit),
            ("executable overwritten", files[options.rounds :], overwrite),
        ):
            found = rounds(device, some, act)
            print(f"{title}: median {statistics.median(found):.0f} ms, worst {max(found):.0f} ms", flush=True)


if __name__ == "__main__":
    main()
