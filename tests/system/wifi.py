"""The virtual machine with radios in it, and this checkout to be run there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.receiver import SOURCE
from tests.system.vm import SHARED, Vm

SECONDS = 300.0


@contextmanager
def wifi_vm(*, init: str = "plain") -> Iterator[Vm]:
    """The machine, with the sources in ``/run/src``."""
    with tempfile.TemporaryDirectory(prefix="mmp-wifi-") as name:
        ignored = shutil.ignore_patterns("__pycache__", "fixtures")
        for folder in ("mender_monitor_py", "tests", "bench"):
            shutil.copytree(SOURCE / folder, Path(name) / folder, ignore=ignored)
        with Vm(Path(name), init="systemd" if init == "systemd" else "plain") as vm:
            # Imports over the shared folder would be slow.
            vm.run(
                f"mkdir /run/src && cp -r {SHARED}/mender_monitor_py {SHARED}/tests {SHARED}/bench /run/src"
            )
            yield vm


def in_guest(vm: Vm, module: str, *arguments: str) -> str:
    """What a module of the sources prints there. Raises AssertionError, with that, when it fails."""
    command = " ".join(("python3", "-B", "-m", module, *arguments))
    return vm.run(f"cd /run/src && exec {command}", seconds=SECONDS)
