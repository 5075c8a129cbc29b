"""What the packages do to files: installation, upgrade, downgrade, removal, purge, takeover."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import packages
from tests.system.chroot import Chroot, chroot
from tests.system.packages import DEMO, DEMO_CHECKS, MAIN, RECEIVER

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

AVAILABLE = "/etc/mender-monitor/monitor.d/available"
ENABLED = "/etc/mender-monitor/monitor.d/enabled"
CONFIG = "/usr/share/mender-monitor/config/config.sh"
OVERRIDES = "/etc/mender-monitor/monitor.conf"
SHIPPED = "/usr/share/mender-monitor-py/config.sh"


@pytest.fixture(scope="session")
def debs() -> dict[str, Path]:
    return packages.built()


@pytest.fixture(params=["bookworm", "trixie"])
def debian(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chroot]:
    with chroot(request.param, tmp_path / "debian") as debian:
        yield debian


def another_config(files: Path) -> None:
    """A later version ships other settings."""
    config = files / SHIPPED.lstrip("/")
    config.write_text(config.read_text().replace("ALERT_BATCH_SIZE=20", "ALERT_BATCH_SIZE=25") + "NEW=1\n")


def user_works(debian: Chroot) -> None:
    """What users do: settings with sed, checks of their own, one changed, one switched off, a subsystem."""
    debian.sh(f"sed -i 's/FLAPPING_INTERVAL=.*/FLAPPING_INTERVAL=8/' {CONFIG}")
    debian.path(OVERRIDES).write_text("CONFIG_LOG_LEVEL=DEBUG\n")
    debian.path(f"{AVAILABLE}/service_cron.sh").write_text('SERVICE_NAME="cron"\n')
    debian.path(f"{ENABLED}/service_cron.sh").symlink_to(f"{AVAILABLE}/service_cron.sh")
    debian.path("/etc/mender-monitor/monitor.d/mine.sh").write_text("#!/bin/bash\n")
    debian.sh(f"echo DISKUSAGE_THRESHOLD=50 >>{AVAILABLE}/diskusage_root_space.sh")
    debian.path(f"{ENABLED}/log_usb_disconnect.sh").unlink()
    debian.path("/var/lib/mender-monitor").mkdir(exist_ok=True)
    debian.path("/var/lib/mender-monitor/outbox.db").write_text("alerts")


def assert_the_users_work_is_there(debian: Chroot) -> None:
    assert "FLAPPING_INTERVAL=8\n" in debian.path(CONFIG).read_text()
    assert debian.path(OVERRIDES).read_text() == "CONFIG_LOG_LEVEL=DEBUG\n"
    assert debian.path(f"{ENABLED}/service_cron.sh").readlink() == Path(f"{AVAILABLE}/service_cron.sh")
    assert debian.path(f"{AVAILABLE}/service_cron.sh").read_text() == 'SERVICE_NAME="cron"\n'
    assert debian.path("/etc/mender-monitor/monitor.d/mine.sh").exists()
    assert "DISKUSAGE_THRESHOLD=50\n" in debian.path(f"{AVAILABLE}/diskusage_root_space.sh").read_text()
    assert debian.path("/var/lib/mender-monitor/outbox.db").read_text() == "alerts"


def enabled(debian: Chroot) -> list[str]:
    return sorted(path.name for path in debian.path(ENABLED).iterdir())


def test_a_new_installation(debian, debs):
    debian.apt(debs[MAIN])

    for path in packages.ORIGINAL:
        assert debian.path(path).exists() or debian.path(path).is_symlink(), path
    for path in (
        "usr/bin/mender-monitord",
        "usr/share/mender-monitor/daemon.sh",
        "usr/share/mender-monitor/ctl.sh",
    ):
        assert os.access(debian.path(path), os.X_OK), path
    assert debian.path(CONFIG).read_bytes() == debian.path(SHIPPED).read_bytes()
    assert sorted(path.stem for path in (packages.SOURCE / "monitor-enabled").iterdir()) == [
        name.removesuffix(".sh") for name in enabled(debian)
    ]
    wanted = "/etc/systemd/system/multi-user.target.wants/mender-monitor.service"
    assert debian.path(wanted).is_symlink()
    assert "_mender-monitor" in debian.path("/etc/passwd").read_text()
    assert debian.sh("mender-monitord --version").startswith("mender-monitord ")


def test_the_state_scripts_come_with_the_update_client(debian, debs, tmp_path):
    """Whichever of the two packages comes first; they go with ours, and the file that they need with them."""
    scripts = debian.path("/etc/mender/scripts")
    debian.apt(debs[MAIN])
    if not debian.path("/usr/bin/mender").exists():
        assert not scripts.exists()
        debian.dpkg(packages.update_client(tmp_path))
    assert sorted(path.name for path in scripts.iterdir()) == [
        "Download_Error_50_mender-monitor",
        "Download_Leave_50_mender-monitor",
        "version",
    ]
    debian.sh(f"apt-get remove -y {MAIN}")
    assert not scripts.exists()


def test_the_users_work_survives_everything_but_purge(debian, debs, tmp_path):
    later = (
        packages.changed(debs[MAIN], tmp_path, "0.1.1", another_config),
        packages.changed(debs[DEMO], tmp_path, "0.1.1"),
    )
    debian.apt(debs[MAIN], debs[DEMO])
    assert set(DEMO_CHECKS) <= set(enabled(debian))
    user_works(debian)
    now_enabled = enabled(debian)

    debian.apt(*later)
    assert_the_users_work_is_there(debian)
    assert enabled(debian) == now_enabled

    debian.apt(debs[MAIN], debs[DEMO])
    assert_the_users_work_is_there(debian)
    assert enabled(debian) == now_enabled

    debian.sh(f"apt-get remove -y {MAIN} {DEMO}")
    assert_the_users_work_is_there(debian)
    assert not set(DEMO_CHECKS) & set(enabled(debian))
    assert not debian.path("/usr/bin/mender-monitord").exists()

    debian.apt(debs[MAIN], debs[DEMO])
    assert_the_users_work_is_there(debian)
    assert enabled(debian) == now_enabled


def test_settings_that_nobody_changed_follow_the_package(debian, debs, tmp_path):
    debian.apt(debs[MAIN])

    debian.apt(packages.changed(debs[MAIN], tmp_path, "0.1.1", another_config))
    assert debian.path(CONFIG).read_text().endswith("NEW=1\n")

    debian.apt(debs[MAIN])
    assert "NEW=1" not in debian.path(CONFIG).read_text()


def test_purge_leaves_nothing(debian, debs):
    before = debian.snapshot()
    debian.apt(*debs.values())
    user_works(debian)

    debian.sh(f"apt-get purge -y {MAIN} {DEMO} {RECEIVER}")

    after = debian.snapshot()
    assert {path: after[path] for path in after if after[path] != before.get(path)} == {}
    assert set(before) <= set(after)


def test_purge_follows_the_link_to_a_data_partition_and_keeps_it(debian, debs):
    link = debian.path("/var/lib/mender-monitor")
    link.symlink_to("/data/mender-monitor")
    debian.path("/data").mkdir()
    debian.path("/data/other").touch()
    debian.apt(debs[MAIN])
    assert link.is_symlink()
    debian.path("/data/mender-monitor").mkdir(exist_ok=True)
    debian.path("/data/mender-monitor/outbox.db").touch()

    debian.sh(f"apt-get purge -y {MAIN}")

    assert link.is_symlink()
    assert [path.name for path in debian.path("/data").iterdir()] == ["other"]


def test_a_link_to_a_folder_of_another_name_is_not_emptied(debian, debs):
    debian.path("/var/lib/mender-monitor").symlink_to("/data")
    debian.path("/data").mkdir()
    debian.path("/data/other").touch()
    debian.apt(debs[MAIN])

    assert "left as it is" in debian.sh(f"apt-get purge -y {MAIN}")

    assert debian.path("/data/other").exists()


@pytest.mark.parametrize("by", ["apt", "dpkg"])
def test_the_original_is_taken_over(debian, debs, tmp_path, by):
    """With what users made and changed in it, and its stored alerts."""
    debian.dpkg(packages.original(tmp_path))
    debian.sh(f"sed -i 's/FLAPPING_INTERVAL=.*/FLAPPING_INTERVAL=8/' {CONFIG}")
    debian.path(f"{AVAILABLE}/service_cron.sh").write_text('SERVICE_NAME="cron"\n')
    debian.path(f"{ENABLED}/service_cron.sh").symlink_to(f"{AVAILABLE}/service_cron.sh")
    debian.sh("echo '# mine' >>/etc/mender-monitor/monitor.d/log.sh")
    alert = {
        "name": "Service cron not running",
        "level": "CRITICAL",
        "timestamp": debian.sh("date -u +%FT%TZ").strip(),
        "subject": {"name": "cron", "type": "service", "status": "not-running", "details": {}},
    }
    record = json.dumps(alert).encode().hex()
    dump = f"VERSION=3\nformat=bytevalue\ntype=btree\nmapsize=1048576\nHEADER=END\n 31\n {record}\nDATA=END\n"
    debian.path("/var/lib/mender-monitor").mkdir()
    debian.path("/tmp/dump").write_text(dump)
    debian.sh("mdb_load -f /tmp/dump /var/lib/mender-monitor")

    (debian.apt if by == "apt" else debian.dpkg)(debs[MAIN])

    settings = debian.path(OVERRIDES).read_text().splitlines()
    assert settings[1:] == [
        "DEFAULT_LOG_LINES_BEFORE=30",
        "FLAPPING_INTERVAL=8",
        "FLAPPING_COUNT_THRESHOLD=8",
    ]
    assert "FLAPPING_INTERVAL=60\n" in debian.path(CONFIG).read_text()
    assert enabled(debian) == ["service_cron.sh"]
    assert debian.path(f"{AVAILABLE}/service_cron.sh").exists()
    assert "# mine" not in debian.sh("cat /etc/mender-monitor/monitor.d/log.sh")
    assert debian.sh("mender-monitor-hook count") == "1\n"
    assert "ii  mender-monitor " not in debian.sh("dpkg -l 'mender-monitor*'")


def test_unchanged_settings_of_the_original_are_not_taken_over(debian, debs, tmp_path):
    debian.dpkg(packages.original(tmp_path))

    debian.apt(debs[MAIN])

    assert not debian.path(OVERRIDES).exists()


def test_the_demo_of_the_original_is_taken_over(debian, debs, tmp_path):
    """What was switched off stays off."""
    debian.dpkg(packages.original(tmp_path), packages.original_demo(tmp_path))
    debian.path(f"{ENABLED}/log_usb_disconnect.sh").unlink()

    debian.apt(debs[MAIN], debs[DEMO])

    assert enabled(debian) == sorted(set(DEMO_CHECKS) - {"log_usb_disconnect.sh"})


def test_purging_what_is_left_of_the_original_does_not_harm(debian, debs, tmp_path):
    debian.dpkg(packages.original(tmp_path))
    debian.apt(debs[MAIN])
    before = enabled(debian)

    debian.sh("dpkg --purge mender-monitor")

    assert enabled(debian) == before
    for path in packages.ORIGINAL:
        assert debian.path(path).exists() or debian.path(path).is_symlink(), path


def test_the_way_back_to_the_original(debian, debs, tmp_path):
    """Purging what is left of ours then touches nothing of its checks and settings."""
    debian.apt(debs[MAIN])
    check = debian.path(f"{AVAILABLE}/service_cron.sh")
    check.write_text('SERVICE_NAME="cron"\n')
    debian.apt(packages.original(tmp_path))

    debian.sh(f"dpkg --purge {MAIN}")

    assert check.exists()
    assert debian.path(CONFIG).read_text() == packages.ORIGINAL_CONFIG


def test_a_users_own_subsystem_is_not_replaced_by_the_demo(debian, debs):
    debian.apt(debs[MAIN])
    own = debian.path("/etc/mender-monitor/monitor.d/diskusage.sh")
    own.write_text("#!/bin/bash\n# mine\n")

    debian.apt(debs[DEMO])
    debian.sh(f"apt-get purge -y {DEMO}")

    assert own.read_text().endswith("# mine\n")


def test_the_receiver_runs_without_the_monitor(debian, debs):
    debian.apt(debs[RECEIVER])

    assert "usage" in debian.sh("mender-monitor-receiver --help")
