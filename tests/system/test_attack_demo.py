"""The attack demo as users run it: each offence has its alert and, after the cleanup, its OK."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.system.attack_demo import attack, evil_twin, made_device, secure


def test_each_offence_has_its_alert_and_its_ok(tmp_path: Path) -> None:
    """
    All eleven; the one that needs a radio where there can be a virtual machine.
    """
    with ThreadPoolExecutor() as beside:
        twin = beside.submit(evil_twin)
        with made_device(tmp_path) as scene:
            secure(scene, "--allow-login admin")
            outcomes = attack(scene)
    told = [(one.offence.title, one.problem, one.alert, one.seconds, one.ok) for one in outcomes]
    assert len(outcomes) == 10
    assert all(outcome.ok is not None for outcome in outcomes), told
    assert twin.result().good, twin.result().problem
