"""
A service that flaps on a device of its own: stopped for 2.2 s, started for 2.2 s, 32 times, default settings.

    python -m tests.system.flapping FOLDER

writes FOLDER/result.json: the alerts in order of arrival, and the device's clock before and after it all.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.system.device import told_on_failure
from tests.system.product import site

TIMES = 32
SECONDS = 2.2
CALM_SECONDS = 120


def main(folder: Path) -> None:
    with site(folder, settings="") as here, told_on_failure(here.device):
        here.device.run("systemctl start victim")
        here.watch("service", "victim", "systemd")
        began = here.now()
        for _ in range(TIMES):
            for verb in ("stop", "start"):
                here.device.run(f"systemctl {verb} victim")
                time.sleep(SECONDS)
        ended = here.now()
        here.server.wait_for(
            lambda alerts: bool(alerts) and alerts[-1]["level"] == "OK" and not_running(alerts[-1]["name"]),
            CALM_SECONDS,
        )
        result = {"began": began, "ended": ended, "alerts": here.server.alerts()}
        (folder / "result.json").write_text(json.dumps(result))


def not_running(name: str) -> bool:
    return name == "Service victim not running"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
