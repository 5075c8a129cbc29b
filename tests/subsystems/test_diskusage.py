from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from pathlib import Path

import pytest

from mender_monitor_py.errors import DefinitionError, UnknownError
from mender_monitor_py.host import disk
from mender_monitor_py.model import CheckId
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.diskusage import DiskUsageCheck, judge

CHECK = CheckId("diskusage", "root_space")


@pytest.mark.parametrize("path", ["/", "/dev/shm", "/proc"])
def test_the_percentage_is_that_of_df(path):
    """Within one percent: others write meanwhile."""
    printed = subprocess.run(
        ["df", "--output=pcent", path], capture_output=True, text=True, check=True
    ).stdout
    text = printed.split()[-1].rstrip("%")

    assert abs(disk.percent(os.statvfs(path)) - (0 if text == "-" else int(text))) <= 1


def test_a_path_that_is_not_there_is_unknown(tmp_path):
    with pytest.raises(UnknownError, match="No such file"):
        asyncio.run(disk.used_percent(str(tmp_path / "nothing")))


def test_a_file_system_that_does_not_answer_is_unknown(monkeypatch):
    """And nobody waits for the thread that hangs."""
    answers = threading.Event()
    monkeypatch.setattr(disk, "PATIENCE_S", 0.05)
    monkeypatch.setattr(os, "statvfs", lambda _: answers.wait())

    with pytest.raises(UnknownError, match="does not answer"):
        asyncio.run(disk.used_percent("/"))

    answers.set()


@pytest.mark.parametrize(
    ("used", "level", "words"),
    [(80, "OK", "back below"), (81, "CRITICAL", "above"), (100, "CRITICAL", "above")],
)
def test_the_alert_is_that_of_the_original(used, level, words):
    seen = judge("/data", used, 80, "CRITICAL")

    assert (seen.level, seen.name) == (
        level,
        "Disk storage has grown to fill more than 80% of the disk '/data'",
    )
    assert (seen.subject.name, seen.subject.type) == ("/data", "disk")
    assert seen.subject.status == "DISKUSAGE_USAGE_WARNING"
    assert seen.details.description == f"Disk /data is now at {used}% capacity, {words} the 80% threshold"


@pytest.mark.parametrize("text", ["0", "101", "many", "-5", "80%", "²"])
def test_a_threshold_that_is_no_percentage_is_refused(text):
    values = {"DISKUSAGE_NAME": "/", "DISKUSAGE_THRESHOLD": text}

    with pytest.raises(DefinitionError, match="DISKUSAGE_THRESHOLD"):
        DiskUsageCheck(Definition(CHECK, values), Settings())


def test_the_shipped_check_can_be_used():
    shipped = Path(__file__).parents[2] / "monitor-demo/available/diskusage_root_space.sh"
    lines = [line.split("=") for line in shipped.read_text().splitlines() if not line.startswith("#")]

    DiskUsageCheck(Definition(CHECK, {name: value.strip('"') for name, value in lines}), Settings())
