"""
Alerts a second through the outbox, beside a log that is appended to and flushed; and what an idle one writes.

    python -m bench.outbox [FOLDER]

FOLDER should be on the disk that counts; default: the current one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mender_monitor_py import wire
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import Alert, CheckId, Details, Line, Subject
from mender_monitor_py.outbox import Changes, Limits, Outbox

ALERTS = 1000
GROUP = 20
ROUNDS = 5
CHECK = CheckId("log", "bench")
ALERT = Alert(
    "Log file contains CVE.*HIGH",
    "CRITICAL",
    Subject("bench", "log", "LOGCONTAINS"),
    Details("present", tuple(Line(n, "a line of the log" * 3) for n in range(5)), Line(6, "CVE HIGH"), ()),
)


def appended(folder: Path) -> None:
    """The floor: one write and one flush an alert."""
    line = wire.to_text(ALERT).encode() + b"\n"
    fd = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(ALERTS):
        os.write(fd, line)
        os.fdatasync(fd)
    os.close(fd)


def put(folder: Path) -> None:
    """The same through the outbox."""
    clock = Clock()
    outbox = Outbox(folder / "outbox.db", Limits(count=10 * ALERTS), clock)
    for _ in range(ALERTS):
        outbox.put([ALERT], clock.now())
    outbox.close()


def committed(folder: Path, group: int) -> None:
    """*group* alerts a transaction, with the check's state and memory."""
    clock = Clock()
    outbox = Outbox(folder / f"outbox-{group}.db", Limits(count=10 * ALERTS), clock)
    for number in range(ALERTS // group):
        alerts = [(ALERT, clock.now())] * group
        outbox.commit(Changes(alerts, {(CHECK, ""): "state" * 40}, {CHECK: str(number)}))
    outbox.close()


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def idle_bytes(folder: Path) -> int:
    """Bytes that this process wrote while it only looked (/proc/self/io, wchar)."""
    outbox = Outbox(folder / "idle.db", Limits(), Clock())
    outbox.put([ALERT], Clock().now())

    def look() -> int:
        before = _written()
        for _ in range(100):
            outbox.head(20)
            outbox.counts()
            outbox.expire()
            outbox.settle(Clock().now())
        return _written() - before

    look()
    result = look()
    outbox.close()
    return result


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def main() -> None:
    rates: dict[str, list[float]] = {"append": [], "put": [], "single": [], "group": []}
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as name:
        for number in range(ROUNDS):
            folder = Path(name, str(number))
            folder.mkdir()
            rates["append"].append(ALERTS / seconds(partial(appended, folder)))
            rates["put"].append(ALERTS / seconds(partial(put, folder)))
            rates["single"].append(ALERTS / seconds(partial(committed, folder, 1)))
            rates["group"].append(ALERTS / seconds(partial(committed, folder, GROUP)))
        idle = idle_bytes(Path(name))
    best = {kind: max(found) for kind, found in rates.items()}
    result = {
        "append_fdatasync_per_s": round(best["append"]),
        "outbox_per_s": round(best["put"]),
        "outbox_with_state_and_memory_per_s": round(best["single"]),
        "outbox_in_groups_of_20_per_s": round(best["group"]),
        "outbox_to_append": round(best["put"] / best["append"], 2),
        "with_state_and_memory_to_append": round(best["single"] / best["append"], 2),
        "group_to_append": round(best["group"] / best["append"], 2),
        "idle_bytes_written": idle,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
