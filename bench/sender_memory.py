"""
What the libraries of the sending cost: memory and the CPU time of a start, each in a fresh interpreter.

    python -m bench.sender_memory
"""

from __future__ import annotations

import json
import subprocess
import sys

STARTS = 5
PROGRAMS = {
    "python": "pass",
    "watcher's part (asyncio, sqlite3, sender)": "import mender_monitor_py.sender",
    "httpx": "import httpx",
    "cryptography (keys, signatures)": "import mender_monitor_py.devicekey",
    "sender process, update client": "import mender_monitor_py.postman, mender_monitor_py.updateclient",
    "sender process, own key": "import mender_monitor_py.postman, mender_monitor_py.devicekey",
    "sender process, own key, TLS ready": (
        "import mender_monitor_py.devicekey\n"
        "from mender_monitor_py.transport import Http\n"
        "from mender_monitor_py.protocol import Setup\n"
        "Http(Setup())._client('https://example.invalid/')"
    ),
    "all in the watcher": (
        "import mender_monitor_py.sender, mender_monitor_py.postman, mender_monitor_py.updateclient\n"
        "import mender_monitor_py.devicekey"
    ),
}
_MEASURE = """
import resource
from pathlib import Path
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
used = resource.getrusage(resource.RUSAGE_SELF)
print(kib["Rss"], kib["Pss"], used.ru_utime + used.ru_stime)
"""


def measure(program: str) -> dict[str, float]:
    """Resident and proportional memory in MiB, CPU seconds until there; the least of some starts."""
    runs = []
    for _ in range(STARTS):
        output = subprocess.run(
            [sys.executable, "-c", program + "\n" + _MEASURE], check=True, capture_output=True, text=True
        ).stdout
        runs.append([float(word) for word in output.split()])
    rss, pss, cpu = (min(column) for column in zip(*runs, strict=True))
    return {"rss_mib": round(rss / 1024, 1), "pss_mib": round(pss / 1024, 1), "cpu_s": round(cpu, 3)}


def main() -> None:
    print(json.dumps({name: measure(program) for name, program in PROGRAMS.items()}, indent=2))


if __name__ == "__main__":
    main()
