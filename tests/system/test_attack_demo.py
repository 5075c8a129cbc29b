"""The attack demo as users run it: each offence has its alert and, after the cleanup, its OK."""

from __future__ import annotations

from pathlib import Path

from tests.system.attack_demo import attack, made_device, secure


def test_each_offence_has_its_alert_and_its_ok(tmp_path: Path) -> None:
    with made_device(tmp_path) as scene:
        secure(scene, "--allow-login admin")
        outcomes = attack(scene)
        told = [(one.offence.title, one.problem, one.alert, one.seconds, one.ok) for one in outcomes]
        assert all(outcome.alert and outcome.ok is not None for outcome in outcomes), told
