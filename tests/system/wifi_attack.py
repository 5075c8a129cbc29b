"""
Attacks the Wi-Fi of a test device, and shows which alert came, and how soon.

    python -m tests.system.wifi_attack [--json]

The device is a virtual machine with the package; radios, access points and station are simulated by its
kernel. Needs root. Exits with 1 when an alert or its OK did not come, and with 2, and the reason, where no
virtual machine can be had.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mender_monitor_py.ctl.text import table
from tests.fakes.receiver import ReceiverProcess
from tests.system.vm import Vm, unavailable
from tests.system.wifi import in_guest, put_sources
from tests.system.wifi_air import POINTS, STA, Air

PORT = "8080"
ALERT_S = 180.0
CHECK = f"""
mender-monitorctl create wifi {STA} {STA} WIFI_SSID=plant-floor WIFI_BSSID={POINTS["floor"].bssid}
mender-monitorctl enable wifi {STA}
"""
UNITS = ("mender-monitor-runner.socket", "mender-monitor-sender.socket", "mender-monitor.service")
# From each of these back to the expected one.
OFFENCES = {
    "an evil twin has the name and the passphrase": "twin",
    "an open network has the name": "open",
    "a stranger's network takes the device": "cafe",
}


class Row(NamedTuple):
    """
    What came of an offence: *seconds* from its begin to the alert at the server, *ok* from the way back to
    the OK there. Both from the station's command on, so that associating and the exchange of keys are in it.
    """

    offence: str
    alert: str
    seconds: float
    ok: float


# In the machine


def attack() -> list[Row]:
    """Commit each offence, with the real daemon and a server."""
    with (
        tempfile.TemporaryDirectory() as name,
        Air() as air,
        ReceiverProcess(Path(name), "--port", PORT) as server,
    ):
        air.connect("floor")
        subprocess.run(["systemctl", "start", *UNITS], check=True)
        _until(lambda: _state().get("state") == "OK", "the check does not come up")
        return [_commit(air, server, *one) for one in OFFENCES.items()]


def _commit(air: Air, server: ReceiverProcess, title: str, point: str) -> Row:
    began = time.monotonic()
    air.choose(point)
    alert, moment = _arrived(server, "CRITICAL")
    air.wait("CTRL-EVENT-CONNECTED", POINTS[point].bssid)
    back = time.monotonic()
    air.choose("floor")
    _, over = _arrived(server, "OK")
    air.wait("CTRL-EVENT-CONNECTED", POINTS["floor"].bssid)
    return Row(title, alert, round(moment - began, 1), round(over - back, 1))


def _arrived(server: ReceiverProcess, level: str) -> tuple[str, float]:
    """The name of the newest alert as soon as it has *level*, and when that was."""
    alerts = server.wait_for(lambda got: bool(got) and got[-1]["level"] == level, ALERT_S)
    return str(alerts[-1]["name"]), time.monotonic()


def _state() -> dict[str, Any]:
    try:
        status = json.loads(Path("/run/mender-monitor/status.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return next((one for one in status["checks"] if one["subsystem"] == "wifi"), {})


def _until(test: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + ALERT_S
    while not test():
        if time.monotonic() > end:
            sys.exit(f"{otherwise}: {_state()}")
        time.sleep(0.2)  # the status is a file


# Beside the machine


def attacked(vm: Vm, folder: Path) -> list[Row]:
    """The same in *vm*, which has systemd. What changes in *folder* is lost."""
    from tests.system.product import know_server
    from tests.system.vmproduct import installed

    def prepare(made: Any) -> None:
        know_server(made.root, update_client=False)
        made.sh(CHECK)

    put_sources(vm)
    with installed(vm, folder, prepare):
        rows = json.loads(in_guest(vm, "tests.system.wifi_attack", "--guest"))
    vm.run("rmmod mac80211_hwsim && rm -r /run/src")
    return [Row(*row) for row in rows]


def main() -> None:
    if sys.argv[1:] == ["--guest"]:
        json.dump(attack(), sys.stdout)
        return
    if reason := unavailable():
        print(reason, file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory(prefix="mmp-wifi-") as name:
        share = Path(name) / "share"
        share.mkdir()
        with Vm(share, init="systemd") as vm:
            try:
                rows = attacked(vm, Path(name) / "product")
            except AssertionError as error:
                sys.exit(str(error))
    if sys.argv[1:] == ["--json"]:
        json.dump([row._asdict() for row in rows], sys.stdout, indent=2)
        print()
    else:
        shown = [(row.offence, row.alert, f"{row.seconds} s", f"after {row.ok} s") for row in rows]
        print(table([("OFFENCE", "ALERT", "AT THE SERVER", "OK AFTER THE CLEANUP"), *shown]))


if __name__ == "__main__":
    main()
