"""Where everything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mender_monitor_py.paths import Paths


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("MENDER_MONITOR_ROOT", "MENDER_CONF_DIR", "MENDER_DATASTORE_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_on_a_device():
    paths = Paths.from_environment()
    assert paths.outbox == Path("/var/lib/mender-monitor/outbox.db")
    assert paths.mender_conf == Path("/etc/mender/mender.conf")
    assert paths.mender_fallback_conf == Path("/var/lib/mender/mender.conf")


def test_under_another_root(monkeypatch):
    """An empty variable is as good as none."""
    monkeypatch.setenv("MENDER_MONITOR_ROOT", "/device")
    monkeypatch.setenv("MENDER_CONF_DIR", "")
    monkeypatch.setenv("MENDER_DATASTORE_DIR", "")
    paths = Paths.from_environment()
    assert paths.etc == Path("/device/etc/mender-monitor")
    assert paths.mender_conf == Path("/device/etc/mender/mender.conf")
    assert paths.mender == Path("/device/var/lib/mender")


def test_beside_an_update_client_that_was_moved(monkeypatch):
    """Its folders are where it has them, and ours where they were."""
    monkeypatch.setenv("MENDER_MONITOR_ROOT", "/device")
    monkeypatch.setenv("MENDER_CONF_DIR", "/data/conf")
    monkeypatch.setenv("MENDER_DATASTORE_DIR", "/data/store")
    paths = Paths.from_environment()
    assert paths.mender_conf == Path("/data/conf/mender.conf")
    assert paths.mender == Path("/data/store")
    assert paths.mender_fallback_conf == Path("/data/store/mender.conf")
    assert paths.state == Path("/device/var/lib/mender-monitor")
