"""
A file system that fills up. There is no event for it: it is looked at every DISKUSAGE_INTERVAL seconds.

Names, status and texts of the alerts are those of the original add-on's demo.
"""

from __future__ import annotations

from mender_monitor_py.host.disk import used_percent
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import OK, Details, Observation, Subject
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition, Field, Report


def _threshold(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100):
        raise ValueError(f"{text!r} is not a number from 1 to 100")
    return int(text)


def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError(f"{text!r} is not a number of seconds, 1 or more")
    return float(text)


_NAME = Field("DISKUSAGE_NAME", str, "a path on the disk", required=True, argument="PATH")
_THRESHOLD = Field("DISKUSAGE_THRESHOLD", _threshold, "percent", default="80", argument="THRESHOLD")
_INTERVAL = Field("DISKUSAGE_INTERVAL", _seconds, "seconds from look to look", default="30")


class DiskUsageCheck(Check):
    """More than DISKUSAGE_THRESHOLD percent of a file system are used."""

    subsystem = "diskusage"
    summary = "a disk that fills up"
    fields = (_NAME, _THRESHOLD, _INTERVAL)

    def __init__(self, definition: Definition, settings: Settings) -> None:
        super().__init__(definition, settings)
        self._path: str = definition.value(_NAME)
        self._threshold: int = definition.value(_THRESHOLD)
        self._interval: float = definition.value(_INTERVAL)

    async def run(self, host: Host, report: Report) -> None:
        while True:
            used = await used_percent(self._path)
            report.observe(judge(self._path, used, self._threshold, self.settings.default_alert_level))
            await report.pause(self._interval)


def judge(path: str, used: int, threshold: int, level: str) -> Observation:
    """What *used* percent mean: *level* above the threshold, OK at it and below."""
    side = "above" if used > threshold else "back below"
    return Observation(
        level=level if used > threshold else OK,
        name=f"Disk storage has grown to fill more than {threshold}% of the disk '{path}'",
        subject=Subject(path, "disk", "DISKUSAGE_USAGE_WARNING"),
        details=Details(f"Disk {path} is now at {used}% capacity, {side} the {threshold}% threshold"),
    )


CHECK = DiskUsageCheck
