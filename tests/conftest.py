"""What every test has: the check that it leaves nothing behind, and a few shared fixtures."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

from mender_monitor_py.paths import ROOT_VARIABLE, Paths
from tests.fakes.private_bus import PrivateBus
from tests.fakes.receiver import ReceiverProcess

# A thread or child that was told to end gets this long to do so, on a slow machine.
GRACE_SECONDS = 5.0

# A loop that collects without end fails its own test, and not whatever else the machine does.
MOST_MEMORY = 8 * 1024**3
with suppress(ValueError):  # there is a lower limit already
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))

hypothesis.settings.register_profile(
    "here",
    deadline=None,
    max_examples=100,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("here")


@pytest.fixture(autouse=True)
def _nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    Fail a test that leaves a task, a thread, a child process or an open file behind.
    """
    tasks = _watch_tasks(monkeypatch)
    before = _held()
    yield
    assert not tasks, f"tasks were still running when the loop closed: {tasks}"
    end = time.monotonic() + GRACE_SECONDS
    while (left := _held() - before) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)  # the end of a thread that nobody joins cannot be awaited
    assert not left, f"left behind: {sorted(left)}"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The product's paths in a folder of the test's own; the environment names it too."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    return Paths(root)


@pytest.fixture
def private_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateBus]:
    """A real dbus-daemon, which the product takes for the system bus."""
    with PrivateBus(tmp_path) as bus:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        yield bus


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[ReceiverProcess]:
    """A receiver that asks for no token."""
    with ReceiverProcess(tmp_path, "--open") as process:
        yield process


def _watch_tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that ``asyncio.run`` has to cancel at its end, as they come."""
    found: list[str] = []
    original = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def cancel_all(loop: asyncio.AbstractEventLoop) -> None:
        found.extend(repr(task) for task in asyncio.all_tasks(loop))
        original(loop)

    monkeypatch.setattr(asyncio.runners, "_cancel_all_tasks", cancel_all)
    return found


def _held() -> set[str]:
    """What this process holds: threads, children and open files."""
    held = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
        held.update(f"child process {child}" for child in children)
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            held.add(f"file {descriptor.name} {descriptor.readlink()}")
        except FileNotFoundError:  # the one that listed them
            continue
    return held
