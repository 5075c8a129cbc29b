from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time

import pytest

from mender_monitor_py import takeover, wire
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.settings import Settings

needs_lmdb = pytest.mark.skipif(shutil.which("mdb_load") is None, reason="needs lmdb-utils")


NOW = int(time.time())


def alert(name, ago):
    """Recent, as what is too old to be of use is dropped."""
    return {
        "name": name,
        "level": "CRITICAL",
        "timestamp": wire.timestamp(NOW - ago),
        "subject": {
            "name": "cron",
            "type": "service",
            "status": "not-running",
            "details": {"description": "…"},
        },
    }


def store(folder, records, database=""):
    """An lmdb environment as a folder, as the tools make it."""
    folder.mkdir(parents=True)
    pairs = "".join(f" {f'{n:04}'.encode().hex()}\n {record.hex()}\n" for n, record in enumerate(records, 1))
    name = f"database={database}\n" if database else ""
    head = f"VERSION=3\nformat=bytevalue\n{name}type=btree\nmapsize=1048576\nHEADER=END\n"
    text = f"{head}{pairs}DATA=END\n"
    subprocess.run(["mdb_load", str(folder)], input=text.encode(), check=True)
    return folder / "data.mdb"


@pytest.fixture
def outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", Limits.of(Settings()), Clock())
    yield outbox
    outbox.close()


@needs_lmdb
def test_stored_alerts_are_queued_in_the_order_of_their_times(tmp_path, outbox):
    """Plain, in base64, as a list; what is no alert is left out."""
    plain = json.dumps(alert("second", 200)).encode()
    encoded = base64.b64encode(json.dumps(alert("first", 300)).encode())
    listed = json.dumps([alert("third", 100), {"name": "no alert"}]).encode()
    file = store(tmp_path / "store", [plain, b"\xff\0 no JSON", encoded, b"5", listed])

    assert takeover.take_over(tmp_path, outbox) == 3

    waiting = outbox.head(10)
    assert [record.alert.name for record in waiting] == ["first", "second", "third"]
    assert [record.at.wall for record in waiting] == [NOW - 300, NOW - 200, NOW - 100]
    assert not file.exists()
    assert takeover.take_over(tmp_path, outbox) == 0


@needs_lmdb
def test_a_store_that_cannot_be_understood_is_left_alone(tmp_path, outbox):
    file = store(tmp_path / "store", [b"something else"])

    assert takeover.take_over(tmp_path, outbox) == 0
    assert file.exists()


@needs_lmdb
def test_a_named_database(tmp_path, outbox):
    store(tmp_path / "store", [json.dumps(alert("one", 100)).encode()], "alerts")

    assert takeover.take_over(tmp_path, outbox) == 1


@needs_lmdb
def test_a_store_in_a_single_file(tmp_path, outbox):
    store(tmp_path / "made", [json.dumps(alert("one", 200)).encode()]).rename(tmp_path / "alerts")

    assert takeover.take_over(tmp_path, outbox) == 1


def test_without_the_tool_nothing_is_lost(tmp_path, outbox, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    file = tmp_path / "data.mdb"
    file.write_bytes(bytes(16) + bytes.fromhex("dec0efbe") + bytes(100))

    assert takeover.take_over(tmp_path, outbox) == 0
    assert file.exists()


def test_damaged_and_foreign_files_do_no_harm(tmp_path, outbox):
    (tmp_path / "data.mdb").write_bytes(bytes(16) + bytes.fromhex("dec0efbe") + bytes(100))
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to("nowhere")

    assert takeover.take_over(tmp_path, outbox) == 0
    assert takeover.take_over(tmp_path / "nothing", outbox) == 0
