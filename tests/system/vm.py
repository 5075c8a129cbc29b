"""
A virtual machine with Debian's own kernel, for what no container has: kernel modules, and initial namespaces.

    with Vm(share, init="systemd") as vm:
        print(vm.run("uname -r"))

Under KVM where that boots a guest, else by emulation (TCG), several times slower.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, Self

from tests.system.vmimage import PLAIN_INIT, vm_image

QEMU = "qemu-system-x86_64"
SHARED = "/mnt/host"
HOST = "10.0.2.2"
BOOT_SECONDS = 360.0
# A KVM that takes longer will never do it: the module kvm_pvm has the device and cannot boot a stock kernel.
KVM_BOOT_SECONDS = 60.0
STOP_SECONDS = 10.0
COMMAND_SECONDS = 300.0
# An answer may be late by the time that the guest takes to kill a script.
LATE_SECONDS = 60.0
MEMORY_MIB = 1024


def unavailable() -> str:
    """Why no virtual machine can be had here; empty: one can."""
    if platform.machine() != "x86_64":
        return f"no virtual machine: its kernel is for x86_64, and this is {platform.machine()}"
    if os.geteuid() != 0:
        return "no virtual machine: its disk can be made by root only"
    missing = [program for program in (QEMU, "mkfs.ext4", "cpio") if shutil.which(program) is None]
    if missing:
        return f"no virtual machine: {', '.join(missing)} missing (qemu-system-x86, e2fsprogs, cpio)"
    return ""


class Vm:
    """
    A fresh machine; a context manager. Needs root.

    The folder *share* is its ``/mnt/host``, both ways. PID 1 is a script that only reaps (``plain``, up in
    half the time) or systemd, which has started everything on entry. It has no network but the loopback.
    What is written to its disk is lost at the end; not to a *disk* of the caller's, booted from :attr:`root`.
    *network*: it has an eth0, by which this machine's loopback is :data:`HOST`; see SLiRP in qemu(1).
    """

    def __init__(
        self,
        share: Path,
        *,
        init: Literal["plain", "systemd"] = "plain",
        disk: Path | None = None,
        network: bool = False,
    ) -> None:
        self.share = share
        self.disk = disk
        self.network = network
        self.root = "/dev/vda"
        self._init = init
        self._folder = Path()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._pending = b""
        self.accelerator = ""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="mmp-vm-"))
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def boot(self) -> None:
        """Switch it on. Raises AssertionError, with what it printed, when it does not come up."""
        image = vm_image()
        if not (_kvm() and self._boot(image, "kvm", KVM_BOOT_SECONDS)):
            booted = self._boot(image, "tcg,thread=multi", BOOT_SECONDS)
            assert booted, f"the virtual machine did not boot:\n{self.console()}"
        if self._init == "systemd":
            # "degraded" is an answer too: its status is not 0.
            self.attempt("systemctl is-system-running --wait", seconds=BOOT_SECONDS)

    def wait_off(self, seconds: float) -> None:
        """Returns when it has ended itself: it was to reboot, or its kernel has panicked."""
        assert self._qemu is not None
        try:
            self._qemu.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it does not reboot:\n{self.console()}") from error
        self._stop()

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def attempt(self, script: str, *, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        """
        Run *script* by /bin/sh, as root; stdout and stderr are one. One after the other.

        Its status is 124 when it took longer than *seconds* and was killed. What it starts in the background
        goes on.
        """
        answer = self._ask({"script": script, "seconds": seconds}, seconds + LATE_SECONDS)
        return subprocess.CompletedProcess(script, answer["status"], answer["output"])

    def run(self, script: str, *, seconds: float = COMMAND_SECONDS) -> str:
        """What *script* prints. Raises AssertionError, with that, when it fails."""
        done = self.attempt(script, seconds=seconds)
        assert done.returncode == 0, f"{script} failed ({done.returncode}):\n{done.stdout}"
        return done.stdout

    def console(self) -> str:
        """The end of what the kernel and PID 1 printed, and what qemu complains of."""
        files = [self._folder / name for name in ("console", "qemu")]
        return "\n".join(file.read_text(errors="replace")[-5000:] for file in files if file.exists())

    # Power

    def _boot(self, image: Path, accelerator: str, limit: float) -> bool:
        """Whether it came up within *limit* seconds."""
        self._port, theirs = socket.socketpair()
        # On a busy machine the kernel would take a late tick for a broken timer, and panic.
        words = f"root={self.root} rw console=ttyS0 panic=-1 quiet"
        words += " net.ifnames=0 mitigations=off no_timer_check"
        if self._init == "plain":
            words += f" vm.init={PLAIN_INIT}"
        command = [
            # It ends with the tests, however these end.
            "setpriv", "--pdeathsig", "KILL", QEMU,
            "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-serial", f"file:{self._folder}/console",
            "-kernel", f"{image}/vmlinuz", "-initrd", f"{image}/initrd.gz", "-append", words,
            "-drive", f"file={self.disk},if=virtio,format=raw,cache=unsafe"
            if self.disk else f"file={image}/root.ext4,if=virtio,format=raw,snapshot=on",
            "-virtfs", f"local,path={self.share},mount_tag=host,security_model=none",
            "-chardev", f"socket,id=agent,fd={theirs.fileno()}",
            "-device", "virtio-serial", "-device", "virtserialport,chardev=agent",
        ]  # fmt: skip
        if self.network:
            command += ["-netdev", "user,id=net", "-device", "virtio-net,netdev=net"]
        with theirs, (self._folder / "qemu").open("wb") as log:
            self._qemu = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[theirs.fileno()]
            )
        self.accelerator = accelerator.partition(",")[0]
        try:
            self._answer(limit)
        except (ConnectionError, TimeoutError):
            self._stop()
            return False
        return True

    def _stop(self) -> None:
        if self._qemu is not None:
            self._qemu.terminate()
            try:
                self._qemu.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._qemu.kill()
                self._qemu.wait()
            self._qemu = None
        if self._port is not None:
            self._port.close()
            self._port, self._pending = None, b""

    # The agent within

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self._port is not None, "the virtual machine is switched off"
        self._port.settimeout(seconds)
        try:
            self._port.sendall(json.dumps(request).encode() + b"\n")
            return self._answer(seconds)
        except (ConnectionError, TimeoutError) as error:
            raise AssertionError(f"the virtual machine does not answer: {error}\n{self.console()}") from error

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._port is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            self._port.settimeout(max(end - time.monotonic(), 0.001))
            data = self._port.recv(1 << 20)
            if not data:
                raise ConnectionError("it has ended")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _kvm() -> bool:
    """Whether this machine's KVM may boot a stock kernel."""
    modules = (Path("/sys/module/kvm_intel"), Path("/sys/module/kvm_amd"))
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and any(module.is_dir() for module in modules)
