"""The attack demo as users run it: each offence has its alert and, after the cleanup, its OK."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.attack_demo import Made, attack, evil_twin, made_device, secure
from tests.system.attack_options import CHECKS
from tests.system.packages import SOURCE

DEMO = "/opt/src/scripts/attack-demo"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with made_device(tmp_path_factory.mktemp("demo")) as made:
        yield made


def test_each_offence_has_its_alert_and_its_ok(scene: Made) -> None:
    """
    All eleven; the one that needs a radio where there can be a virtual machine.
    """
    with ThreadPoolExecutor() as beside:
        twin = beside.submit(evil_twin)
        secure(scene, "--allow-login admin")
        outcomes = attack(scene)
    told = [(one.offence.title, one.problem, one.alert, one.seconds, one.ok) for one in outcomes]
    assert len(outcomes) == 10
    assert all(outcome.ok is not None for outcome in outcomes), told
    assert twin.result().good, twin.result().problem


def test_on_the_device_itself(scene: Made) -> None:
    """
    It wants to be told so twice, and by root. Some offences are enough; check files are as before then.
    """
    device = scene.site.device
    for folder in ("mender_monitor_py", "scripts", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / folder, device.root / "opt/src" / folder, ignore=ignored)
    for words, reason in (
        ("", "this machine looks like one in production: it has an update client: /etc/mender/mender.conf"),
        ("--here", "--here and --yes go together: they attack this machine"),
    ):
        refused = device.attempt(f"{DEMO} {words}")
        assert refused.returncode == 1
        assert refused.stdout.startswith(f"scripts/attack-demo: {reason}")  # before anything was installed
    refused = device.attempt(f"{DEMO} --here --yes", user="nobody")
    assert (refused.returncode, refused.stdout) == (
        1, "scripts/attack-demo: root is needed: run it with sudo\n"
    )  # fmt: skip

    files = f"tail -n +1 /{CHECKS}/available/*"
    before = device.run(files)
    alerts = len(scene.told())
    shown = device.run(f"{DEMO} --here --yes ports integrity pid")
    assert device.run(files) == before
    rows = [line for line in shown.splitlines() if line.endswith(" s")]
    assert [row.partition("  ")[0] for row in rows] == [
        "a back door listens", "an executable changed", "an executable moved", "a service is killed",
    ]  # fmt: skip
    assert {"Unexpected open port tcp/4444", "Process ssh restarted"} <= {
        one.name for one in scene.told()[alerts:]
    }
