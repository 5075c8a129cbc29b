"""Tests on devices: they need root, and a test that failed shows the journals of its devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.receiver import SOURCE
from tests.system.device import Device, tell
from tests.system.product import Site, site

HERE = Path(__file__).parent
FLAPPING_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
            device = used.device if isinstance(used, Site) else used
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


@pytest.fixture(scope="session", autouse=True)
def _flapping_process(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], Path] | None]:
    """The flapping takes minutes: a process of its own does it while other tests run."""
    if not any("flapping" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("flapping")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.flapping", str(folder)], cwd=SOURCE, stdout=log, stderr=log
        )
    yield process, folder
    process.terminate()
    process.wait()


@pytest.fixture
def flapping(_flapping_process: tuple[subprocess.Popen[bytes], Path]) -> dict[str, Any]:
    """What became of the service that flapped: see :mod:`tests.system.flapping`."""
    process, folder = _flapping_process
    status = process.wait(FLAPPING_SECONDS)
    assert status == 0, (folder / "log").read_text()
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result
