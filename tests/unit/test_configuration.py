"""The two files of settings, one over the other."""

import os
from pathlib import Path

import pytest

from mender_monitor_py.configuration import load_settings
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings


@pytest.fixture
def paths(tmp_path):
    paths = Paths(tmp_path)
    paths.config.parent.mkdir(parents=True)
    paths.etc.mkdir(parents=True)
    return paths


def test_without_files_every_setting_is_its_default(tmp_path):
    """
    Both files may be missing, and nothing is said of it.
    """
    assert load_settings(Paths(tmp_path)) == (Settings(), [])


def test_the_users_file_goes_over_the_shipped_one(paths):
    """
    Setting by setting, also when bash has to read one of them.
    """
    paths.config.write_text("FLAPPING_INTERVAL=8\nFLAPPING_COUNT_THRESHOLD=3\n")
    paths.overrides.write_text("FLAPPING_INTERVAL=$((3 * 3))\n")
    assert load_settings(paths) == (Settings(flapping_interval=9, flapping_count_threshold=3), [])


def test_each_thing_that_is_wrong_is_a_warning_and_nothing_more(paths):
    """
    A value, a file that bash cannot read, a command in it that fails.
    """
    paths.config.write_text("no-such-command\nFLAPPING_INTERVAL=often\n")
    paths.overrides.write_text("if\n")
    settings, warnings = load_settings(paths)
    assert settings == Settings()
    assert [warning.partition(" ")[0] for warning in warnings] == [
        f"{paths.config}:2:",
        f"{paths.config}:",
        f"{paths.overrides}:2:",
    ]
    assert "line 1: no-such-command: command not found" in warnings[1]
    assert warnings[2].endswith("nothing of it is used")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts others")
def test_settings_that_another_user_can_write_are_not_used(paths: Paths) -> None:
    """
    The program obeys them as root.
    """
    paths.overrides.write_text("FLAPPING_INTERVAL=8\n")
    Path(paths.overrides).chmod(0o666)
    settings, warnings = load_settings(paths)
    assert settings == Settings()
    assert len(warnings) == 1
    assert "others than root can write it (mode 666)" in warnings[0]
