"""
Puts the alerts that the original add-on had not sent yet into our outbox; run once, by the package.

The original keeps them in an lmdb file whose format is not public. mdb_dump(1), of lmdb-utils, prints any
lmdb file; what in it is an alert in the server's JSON, plain or in base64, is taken with its own time.
Anything else stays where it is.
"""

from __future__ import annotations

import binascii
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from mender_monitor_py import wire
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.errors import MonitorError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import Alert, Stamp
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.paths import Paths

log = logging.getLogger(__name__)

# The magic number of an lmdb file, in the meta data after the header of its first page.
_MAGIC, _MAGIC_AT = 0xBEEFC0DE, 16
_DONE = ".taken-over"
_MAX_DUMP = 64 * 1024 * 1024


def take_over(state: Path, outbox: Outbox) -> int:
    """
    Queue the alerts in the lmdb files under *state*, oldest first; how many there were.

    A file from which alerts were taken is renamed, so that they are not taken again. Raises OutboxError.
    """
    taken = 0
    for file in [path for path in sorted(state.rglob("*")) if is_lmdb(path)]:
        found = sorted(alerts(dump(file)), key=lambda pair: pair[1])
        for alert, wall in found:
            outbox.put([alert], Stamp(boot_id="", boottime=0.0, wall=wall, known=True))
        if found:
            file.rename(file.with_name(file.name + _DONE))
        taken += len(found)
    return taken


def is_lmdb(path: Path) -> bool:
    """Whether *path* is an lmdb data file from which nothing was taken yet."""
    if path.suffix == _DONE or path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(_MAGIC_AT)
        return int.from_bytes(file.read(4), sys.byteorder) == _MAGIC


def dump(file: Path) -> list[bytes]:
    """The values of all keys in *file*; none when it cannot be read, which is logged."""
    # An lmdb environment is a folder with a data.mdb, or a single file; -a is for the named databases in it,
    # of which there may be none.
    target = [str(file.parent)] if file.name == "data.mdb" else ["-n", str(file)]
    found: list[bytes] = []
    for command in (["mdb_dump", *target], ["mdb_dump", "-a", *target]):
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        except (subprocess.TimeoutExpired, OSError) as error:
            log.warning("%s: the alerts in it cannot be read, which needs lmdb-utils: %s", file, error)
            break
        if done.returncode == 0:
            found += values(done.stdout[:_MAX_DUMP].decode("ascii", "replace"))
        elif "-a" not in command:
            said = done.stderr.decode(errors="replace").strip()
            log.warning("%s: the alerts in it cannot be read: %s", file, said)
    return found


def values(text: str) -> Iterator[bytes]:
    """The values in what mdb_dump prints: after a space, a key and its value by turns, in hex."""
    lines = [line[1:] for line in text.splitlines() if line.startswith(" ")]
    for value in lines[1::2]:
        try:
            yield binascii.unhexlify(value)
        except binascii.Error:
            log.debug("not hex: %.40r", value)


def alerts(records: list[bytes]) -> Iterator[tuple[Alert, float]]:
    """The alerts among *records*, each with the wall time at which it happened."""
    for record in records:
        for body in _bodies(record):
            try:
                yield wire.from_text(json.dumps(body)), datetime.fromisoformat(body["timestamp"]).timestamp()
            except (KeyError, TypeError, ValueError):
                log.debug("not an alert: %.40r", record)


def _bodies(record: bytes) -> list[Any]:
    """The JSON that *record* is: a list's members, or the value alone."""
    text = record.strip(b"\0 \n")
    try:
        if not text.startswith((b"{", b"[")):
            text = binascii.a2b_base64(text, strict_mode=True)
        body = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return body if isinstance(body, list) else [body]


def main() -> None:
    """The program."""
    logging.basicConfig(format="mender-monitor-py: %(message)s")
    paths = Paths.from_environment()
    try:
        settings, _ = load_settings(paths)
        with closing(Outbox(paths.outbox, Limits.of(settings), Clock())) as outbox:
            taken = take_over(paths.state, outbox)
    except (MonitorError, OSError) as error:
        sys.exit(f"mender-monitor-py: stored alerts of mender-monitor were not taken over: {error}")
    if taken:
        sys.stderr.write(f"mender-monitor-py: {taken} stored alerts of mender-monitor were taken over\n")


if __name__ == "__main__":
    main()
