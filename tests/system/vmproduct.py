"""
The package in the virtual machine of :mod:`tests.system.vm`.

Under emulation dpkg takes more than a minute there: it is installed in a chroot of the same Debian on this
machine, and what that changed is unpacked within.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.chroot import NOT_OURS, Chroot, chroot
from tests.system.packages import MAIN, built
from tests.system.vm import SHARED, Vm
from tests.system.vmimage import SUITE

UNITS = "mender-monitor-runner.socket mender-monitor-sender.socket mender-monitor.service"
_LEFT_OUT = (*NOT_OURS, "usr/sbin/policy-rc.d")


@contextmanager
def installed(vm: Vm, folder: Path, prepare: Callable[[Chroot], object]) -> Iterator[None]:
    """
    The package is on *vm*, its units are not started: see :data:`UNITS`. They are stopped at the end.

    *prepare* gets the file system beforehand: settings, checks. What changes in *folder* is lost.
    """
    archive = vm.share / "product.tar"
    with chroot(SUITE, folder) as made:
        made.dpkg(built()[MAIN])
        prepare(made)
        left_out = [f"--exclude=./{path}" for path in _LEFT_OUT]
        tar = ["tar", "--create", f"--file={archive}", f"--directory={folder / 'upper'}", *left_out, "."]
        subprocess.run(tar, check=True)
    vm.run(f"tar --extract --file {SHARED}/product.tar --directory / && systemctl daemon-reload")
    vm.run("systemctl reload dbus")  # its policy for the sender
    try:
        yield
    finally:
        vm.run(f"systemctl stop {UNITS}; rm -rf /etc/mender-monitor /var/lib/mender-monitor")
        archive.unlink()
