"""The `wifi` check on real nl80211: radios, access points and a station in a virtual machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.vm import Vm, unavailable
from tests.system.wifi import in_guest, wifi_vm
from tests.system.wifi_attack import OFFENCES, attacked
from tests.system.wifi_scenarios import SCENARIOS

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


@pytest.fixture(scope="module")
def played() -> dict[str, str]:
    """What went wrong in each scenario: all of them are played in one go, by one process of the machine."""
    with wifi_vm() as vm:
        results: dict[str, str] = json.loads(in_guest(vm, "tests.system.wifi_scenarios"))
    return results


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_in_the_machine(played: dict[str, str], scenario: str) -> None:
    """See :mod:`tests.system.wifi_scenarios`."""
    assert "checks" not in played, f"a check ended: {played['checks']}"
    assert not played[scenario], played[scenario]


def test_in_its_unit_with_a_server(machine: Vm, tmp_path: Path) -> None:
    """Each offence is an alert at the server, and the way back is its OK; in the sandbox of the unit."""
    rows = attacked(machine, tmp_path / "product")
    assert [row.offence for row in rows] == list(OFFENCES)
    assert {row.alert for row in rows} == {"Wi-Fi access point changed on wlan1"}
