"""Units: names as systemctl takes them, states as `systemctl is-active` judges them, and reasons in words."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py.unitstate import Unit, interface, object_path, properties, span, unit_name, why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cron", "cron.service"),
        ("cron.service", "cron.service"),
        ("a.b", "a.b.service"),
        ("getty@tty1", "getty@tty1.service"),
        ("wpa_supplicant@wlan0.service", "wpa_supplicant@wlan0.service"),
        ("logrotate.timer", "logrotate.timer"),
        ("docker.socket", "docker.socket"),
        ("/data", "data.mount"),
        ("/var/lib/my-data/", "var-lib-my\\x2ddata.mount"),
        ("/", "-.mount"),
        ("/.hidden", "\\x2ehidden.mount"),
        ("/dev/ttyUSB0", "dev-ttyUSB0.device"),
        ("my service", "my\\x20service.service"),
        ("a/b", "a-b.service"),
        ("dbus-org.freedesktop.timesync1", "dbus-org.freedesktop.timesync1.service"),
        ("multi-user.target", "multi-user.target"),
        ("spooler.path", "spooler.path"),
    ],
)
def test_a_name_means_the_unit_that_systemctl_takes_it_for(text: str, expected: str) -> None:
    assert unit_name(text) == expected
    if shutil.which("systemd-escape"):
        assert escaped_by_systemd(text) == expected


def escaped_by_systemd(text: str) -> str:
    return subprocess.run(
        ["systemd-escape", "--mangle", "--", text], check=True, capture_output=True, text=True
    ).stdout.removesuffix("\n")


@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="systemd is not installed")
@settings(max_examples=60)
@given(st.text(alphabet="ab.@-_\\/ :é~", min_size=1, max_size=12))
def test_any_name_means_what_systemd_takes_it_for(text: str) -> None:
    try:
        ours = unit_name(text)
    except ValueError:
        return
    assert ours == escaped_by_systemd(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("getty@", "template"),
        ("getty@.service", r"getty@1\.service"),
        ("x" * 250, "cannot be"),
        ("@", "cannot"),
        ("/a/../b", "plain path"),
        ("@a.service", "cannot be"),
        ("", "cannot be"),
    ],
)
def test_what_cannot_be_a_unit_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unit_name(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cron.service", "cron_2eservice"),
        ("getty@tty1.service", "getty_40tty1_2eservice"),
        ("9p.mount", "_39p_2emount"),
        ("var-lib-my\\x2ddata.mount", "var_2dlib_2dmy_5cx2ddata_2emount"),
    ],
)
def test_a_unit_has_its_object(name: str, expected: str) -> None:
    assert object_path(name) == f"/org/freedesktop/systemd1/unit/{expected}"


@pytest.mark.parametrize(
    ("active", "running"),
    [
        ("active", True),
        ("reloading", True),
        ("refreshing", True),
        ("activating", False),
        ("deactivating", False),
        ("failed", False),
        ("inactive", False),
        ("maintenance", False),
    ],
)
def test_it_runs_when_is_active_says_so(active: str, running: bool) -> None:
    assert Unit("x.service", "loaded", active, "any").running is running


FACTS: dict[str, Any] = {
    "Result": "success",
    "ExecMainCode": 1,
    "ExecMainStatus": 0,
    "ExecMainStartTimestampMonotonic": 1_000_000,
    "ExecMainExitTimestampMonotonic": 3_500_000,
    "NRestarts": 0,
}


@pytest.mark.parametrize(
    ("state", "facts", "expected"),
    [
        (("not-found", "inactive", "dead"), {}, "There is no unit x.service on this device"),
        (("bad-setting", "inactive", "dead"), {}, "systemd cannot load the unit x.service (bad-setting)"),
        (("masked", "inactive", "dead"), {}, "x.service is inactive (dead) and masked"),
        (("loaded", "inactive", "dead"), {}, "x.service is inactive (dead)"),
        (
            ("loaded", "inactive", "dead"),
            FACTS,
            "x.service is inactive (dead): its main process exited with status 0 after 2.5 s",
        ),
        (
            ("loaded", "failed", "failed"),
            {**FACTS, "Result": "exit-code", "ExecMainStatus": 3, "NRestarts": 1},
            "x.service is failed (failed): its main process exited with status 3 after 2.5 s;"
            " systemd has restarted it 1 time",
        ),
        (
            ("loaded", "activating", "auto-restart"),
            {**FACTS, "Result": "signal", "ExecMainCode": 2, "ExecMainStatus": 9, "NRestarts": 4},
            "x.service is activating (auto-restart): its main process was ended by SIGKILL after 2.5 s;"
            " systemd has restarted it 4 times",
        ),
        (
            ("loaded", "failed", "failed"),
            {"Result": "core-dump", "ExecMainCode": 3, "ExecMainStatus": 11},
            "x.service is failed (failed): its main process was ended by SIGSEGV and dumped core",
        ),
        (
            ("loaded", "failed", "failed"),
            {"Result": "start-limit-hit", "ExecMainCode": 0},
            "x.service is failed (failed): it was started too often",
        ),
        (
            ("loaded", "failed", "failed"),
            {"Result": "of a later version", "ExecMainCode": 2, "ExecMainStatus": 99},
            "x.service is failed (failed): its main process was ended by signal 99",
        ),
    ],
)
def test_the_reason_is_in_plain_words(
    state: tuple[str, str, str], facts: dict[str, Any], expected: str
) -> None:
    assert why(Unit("x.service", *state), facts) == expected


def test_a_name_that_systemd_refuses_is_told_in_its_words() -> None:
    unit = Unit("x.service", "error", "inactive", "dead", problem="Unit name is too long.")
    assert why(unit, {}) == "systemd cannot load x.service: Unit name is too long."


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (11_111, "3 h 5 min"), (200_000, "2 d 7 h")],
)
def test_a_duration_is_short(seconds: float, expected: str) -> None:
    assert span(seconds) == expected


def test_each_kind_of_unit_is_asked_what_it_has() -> None:
    assert interface("a.timer") == "org.freedesktop.systemd1.Timer"
    assert properties("a.timer") == ("Result",)
    assert properties("a.target") == ()
    assert "NRestarts" in properties("a.service")
