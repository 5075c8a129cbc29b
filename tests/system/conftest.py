"""Tests on devices: they need root, and a test that failed shows the journals of its devices."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.device import Device, tell
from tests.system.product import Site, site
from tests.system.vm import Vm, unavailable

HERE = Path(__file__).parent
# Each of these takes minutes: they begin first, and the others run beside them.
LONG = (
    "test_flapping.py",
    "test_attack_demo.py",
    "test_security_machine.py",
    "test_hold_machine.py",
    "test_wifi.py",
    "test_deployments.py",
    "test_hold.py",
    "test_secure.py",
    "test_login.py",
)


def _turn(item: pytest.Item) -> tuple[int, bool]:
    name = item.path.name
    return LONG.index(name) if name in LONG else len(LONG), not item.path.is_relative_to(HERE)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.system)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: it boots a device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call" and report.failed:
        for used in getattr(item, "funcargs", {}).values():
            device = getattr(used, "device", used)  # of a Site, or of what has one
            if isinstance(device, Device):
                tell(device)
    return report


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One device for several tests: it signs its own authentication requests."""
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def beside_client(tmp_path: Path) -> Iterator[Site]:
    """A device of its own, beside Debian's update client, which has the token."""
    with site(tmp_path, update_client=True) as made:
        yield made


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """A virtual machine with systemd, booted once by each process of tests. Leave it as it was."""
    if reason := unavailable():
        pytest.skip(reason)
    with Vm(tmp_path_factory.mktemp("share"), init="systemd") as vm:
        yield vm
