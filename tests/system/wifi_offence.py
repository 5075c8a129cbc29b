"""
Runs in the virtual machine: a device with a radio is secured, and its station is led to another access point.

Prints a JSON object: what `secure` said of the Wi-Fi, the alert, when it was at the server, and when its OK
was; and what went wrong, which is empty as a rule.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.fakes.receiver import ReceiverProcess
from tests.system.wifi_air import STA, Air

ALERT = f"Wi-Fi access point changed on {STA}"
PATIENCE_S = 180.0
ROOT = Path("/run/device")
_SOURCE = Path("/run/src")
_SOON = "DEFAULT_ALERT_STORE_RESEND_INTERVAL_S=3\nSEND_ALERT_MAX_INTERVAL_S=0\n"


def furnish(url: str) -> None:
    """A monitor's files, an identity, and a key of its own."""
    (ROOT / "etc/mender-monitor").mkdir(parents=True)
    (ROOT / "etc/mender").mkdir()
    identity, key = ROOT / "identity", ROOT / "device.pem"
    identity.write_text("#!/bin/sh\necho mac=02:00:00:00:00:01\n")
    identity.chmod(0o755)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    key.chmod(0o600)
    (ROOT / "etc/mender/mender.conf").write_text(json.dumps({"ServerURL": url}))
    settings = f"DEVICE_KEY={key}\nDEVICE_IDENTITY={identity}\n{_SOON}"
    (ROOT / "etc/mender-monitor/monitor.conf").write_text(settings)


def commit(air: Air, server: ReceiverProcess) -> dict[str, Any]:
    """An open access point has the name of the network; then the station is on the right one again."""
    start = time.monotonic()
    air.connect("open")
    _until(server, "CRITICAL")
    told = time.monotonic()
    air.connect("floor")
    cleaned = time.monotonic()
    _until(server, "OK")
    return {"alert": ALERT, "seconds": told - start, "ok": time.monotonic() - cleaned}


def _knows() -> bool:
    """Whether the daemon has looked at the interface."""
    try:
        status = json.loads((ROOT / "run/mender-monitor/status.json").read_text())
    except FileNotFoundError:
        return False
    return any(one["name"] == STA and one["state"] == "OK" for one in status["checks"])


def _until(server: ReceiverProcess, level: str) -> None:
    server.wait_for(lambda got: [a["level"] for a in got if a["name"] == ALERT][-1:] == [level], PATIENCE_S)


def main() -> None:
    environment = {**os.environ, "PYTHONPATH": str(_SOURCE), "MENDER_MONITOR_ROOT": str(ROOT)}
    ctl = [sys.executable, "-c", "from mender_monitor_py.ctl import main; main()"]
    folder = Path("/run/server")
    folder.mkdir()
    with Air() as air, ReceiverProcess(folder, "--open") as server:
        air.connect("floor")
        furnish(server.url)
        secured = subprocess.run(
            [*ctl, "secure", "--yes"], env=environment, capture_output=True, text=True, check=True
        ).stdout
        with subprocess.Popen(
            [sys.executable, "-m", "mender_monitor_py.monitord"], env=environment, stderr=subprocess.DEVNULL
        ) as daemon:
            try:
                end = time.monotonic() + PATIENCE_S
                while not _knows() and time.monotonic() < end:
                    time.sleep(0.2)  # the status is a file
                found = commit(air, server)
            finally:
                daemon.terminate()
    lines = secured.splitlines()
    first = next(number for number, line in enumerate(lines) if f"wifi {STA}" in line)
    print(json.dumps({**found, "secured": lines[first : first + 3]}))


if __name__ == "__main__":
    main()
