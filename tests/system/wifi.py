"""A virtual machine with this checkout in it, for what is run there by its Python."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.receiver import SOURCE
from tests.system.vm import SHARED, Vm

SOURCES = "/run/src"
SECONDS = 600.0


@contextmanager
def wifi_vm() -> Iterator[Vm]:
    """A machine of its own with the sources."""
    with tempfile.TemporaryDirectory(prefix="mmp-wifi-") as name, Vm(Path(name)) as vm:
        put_sources(vm)
        yield vm


def put_sources(vm: Vm) -> None:
    """Copy this checkout to :data:`SOURCES` there: imports over the shared folder would be slow."""
    shared = vm.share / "src"
    ignored = shutil.ignore_patterns("__pycache__", "fixtures")
    for folder in ("mender_monitor_py", "tests", "bench"):
        shutil.copytree(SOURCE / folder, shared / folder, ignore=ignored)
    vm.run(f"cp -r {SHARED}/src {SOURCES}")
    shutil.rmtree(shared)


def in_guest(vm: Vm, module: str, *arguments: str) -> str:
    """What a module of the sources prints there. Raises AssertionError, with that, when it fails."""
    command = shlex.join(("python3", "-B", "-m", module, *arguments))
    return vm.run(f"cd {SOURCES} && exec {command}", seconds=SECONDS)
