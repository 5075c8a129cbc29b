"""The attack demo's own judgement, on a scene where nothing is attacked."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.system import attack_demo
from tests.system.attack_demo import SHORT, Told, attack, events_over_soon, obstacle
from tests.system.offences import Offence

FIRST, SECOND = (
    Offence(name, f"the {name} one", f"shown {name}", f"commit {name}", f"undo {name}", f"Alert {name}")
    for name in ("first", "second")
)


class Scene:
    """A scene whose scripts *tell* a server what they are mapped to."""

    poll = 0.01

    def __init__(self, tell: dict[str, Told], before: list[Told]) -> None:
        self._tell = tell
        self._told = before

    def attempt(self, script: str) -> subprocess.CompletedProcess[str]:
        if script in self._tell:
            self._told = [*self._told, self._tell[script]]
        shown = "first_x second_x" if script == "mender-monitorctl list" else ""
        return subprocess.CompletedProcess(script, 0, shown, "")

    def told(self) -> list[Told]:
        time.sleep(0.05)  # as a program that is started for it
        return self._told


@pytest.fixture(autouse=True)
def _not_for_long(monkeypatch):
    monkeypatch.setattr(attack_demo, "ALERT_S", 0.3)
    monkeypatch.setattr(attack_demo, "OK_S", 0.3)


def test_an_ok_that_does_not_come_hides_no_later_one():
    scene = Scene(
        {
            "commit first": Told("CRITICAL", "Alert first"),
            "commit second": Told("CRITICAL", "Alert second"),
            "undo second": Told("OK", "Alert second"),
        },
        [],
    )
    first, second = attack(scene, [FIRST, SECOND])
    assert (first.alert, first.ok, first.good) == ("Alert first", None, False)
    assert (second.alert, second.good) == ("Alert second", True)


def test_what_the_server_had_before_is_no_alert_of_the_offence():
    (first,) = attack(Scene({}, [Told("CRITICAL", "Alert first"), Told("OK", "Alert first")]), [FIRST])
    assert (first.alert, first.good) == ("", False)
    assert "nothing in" in first.problem


@pytest.mark.parametrize(
    ("running", "sender", "reason"),
    [
        (False, {}, "the monitor does not run"),
        (True, {"state": "waiting", "reason": "no route to it"}, "no alert reaches the server now: no route"),
        (True, {"state": "ready", "reason": ""}, ""),
        (True, {}, ""),
    ],
)
def test_what_is_in_the_way_of_every_alert(running, sender, reason):
    found = obstacle({"daemon": {"running": running}, "sender": sender})
    assert found.startswith(reason) if reason else not found


def test_check_files_are_as_before_whatever_happens(tmp_path):
    """
    Only what is there and enabled is changed; what was written into it meanwhile stays.
    """
    (tmp_path / "enabled").mkdir()
    file = tmp_path / "enabled/process_all.sh"
    file.write_text("PROCESS_SCRIPTS=yes\n")
    with pytest.raises(KeyboardInterrupt), events_over_soon(tmp_path):
        assert f'PROCESS_EXPIRATION="{SHORT["process_all"]["PROCESS_EXPIRATION"]}"\n' in file.read_text()
        with file.open("a") as text:
            text.write("PROCESS_HIDDEN=yes\n")
        raise KeyboardInterrupt
    assert file.read_text() == "PROCESS_SCRIPTS=yes\nPROCESS_HIDDEN=yes\n"
    assert [path.name for path in (tmp_path / "enabled").iterdir()] == ["process_all.sh"]
