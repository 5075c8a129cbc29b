"""
The package in the virtual machine of :mod:`tests.system.vm`.

Under emulation dpkg takes more than a minute there: it is installed in a chroot of the same Debian on this
machine, and what that changed is unpacked within.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.chroot import NOT_OURS, Chroot, chroot
from tests.system.packages import MAIN, built
from tests.system.vm import SHARED, Vm
from tests.system.vmimage import SUITE

UNITS = "mender-monitor-runner.socket mender-monitor-sender.socket mender-monitor.service"
_LEFT_OUT = (*NOT_OURS, "usr/sbin/policy-rc.d")


class Watched:
    """A machine with the package, and what its daemon says."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def status(self) -> dict[str, Any]:
        """What the daemon writes."""
        status: dict[str, Any] = json.loads(self.vm.run("cat /run/mender-monitor/status.json"))
        return status

    def checks(self) -> dict[str, Any]:
        """The status of each check."""
        return {f"{one['subsystem']} {one['name']}": one for one in self.status()["checks"]}

    def are_well(self, checks: Iterable[str]) -> bool:
        """Whether *checks* have looked, and found nothing."""
        found = self.checks()
        return all(check in found and found[check]["state"] == "OK" for check in checks)

    def held(self) -> set[str]:
        """The findings that are held back."""
        findings = [finding for check in self.checks().values() for finding in check["findings"]]
        return {finding["name"] for finding in findings if not finding["told"]}

    def holds(self) -> bool:
        """Whether findings are held back for a deployment."""
        return self.status()["held"] is not None

    def until(self, test: Callable[[], bool], seconds: float = 240) -> None:
        """Returns when *test* is true. Raises AssertionError, with status and journal, after *seconds*."""
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, self.vm.run(
                "mender-monitorctl status; journalctl -u mender-monitor"
            )
            time.sleep(0.3)  # what happens inside another machine cannot be awaited


def pack(archive: Path, folder: Path, prepare: Callable[[Chroot], object]) -> None:
    """Make *archive*: what the package, and then *prepare*, change in a Debian. *folder* is for the work."""
    with chroot(SUITE, folder) as made:
        made.dpkg(built()[MAIN])
        prepare(made)
        left_out = [f"--exclude=./{path}" for path in _LEFT_OUT]
        tar = ["tar", "--create", f"--file={archive}", f"--directory={folder / 'upper'}", *left_out, "."]
        subprocess.run(tar, check=True)


@contextmanager
def installed(vm: Vm, folder: Path, prepare: Callable[[Chroot], object]) -> Iterator[None]:
    """
    The package is on *vm*, its units are not started: see :data:`UNITS`. They are stopped at the end.

    *prepare* gets the file system beforehand: settings, checks. What changes in *folder* is lost.
    """
    archive = vm.share / "product.tar"
    pack(archive, folder, prepare)
    vm.run(f"tar --extract --file {SHARED}/product.tar --directory / && systemctl daemon-reload")
    vm.run("systemctl reload dbus")  # its policy for the sender
    try:
        yield
    finally:
        vm.run(f"systemctl stop {UNITS}; rm -rf /etc/mender-monitor /var/lib/mender-monitor")
        archive.unlink()
