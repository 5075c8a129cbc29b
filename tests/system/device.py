"""A device for tests: Debian with systemd, D-Bus and journal, booted in a container with its own network."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.system.image import base

BOOT_SECONDS = 120.0
STOP_SECONDS = 120.0
COMMAND_SECONDS = 240.0
WAIT_SECONDS = 120.0
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
# systemd-nspawn ends with it when the container wants to boot again and nobody manages its unit.
REBOOT_STATUS = 133
# fanotify and what it needs, for a device that is to see what is executed on it.
_FANOTIFY = "--system-call-filter=fanotify_init fanotify_mark open_by_handle_at name_to_handle_at"
# As systemd has it where it may set it. With the kernel's 10, what syslog does not read at once is dropped.
_DATAGRAMS = 512
_PREFIX = "mmp-"
# cgroup v2 alone, or v2 beside v1 with systemd's own hierarchy: systemd-nspawn uses both of these.
_CGROUPS = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd")]
# In cgroups of its own ($1, with spaces between), and the first in a process namespace of its own: it ends
# with the process that started it, and all of the device with it.
_START = """
for group in $1; do echo $$ >"$group/cgroup.procs"; done
shift
exec setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount-proc -- "$@"
"""


class Device:
    """
    A fresh device; a context manager. Needs root.

    *prepare* gets the root file system before the first boot. What is written to it is lost at the end.
    *fanotify*: it may use that, which a container may not as a rule.
    """

    def __init__(
        self,
        prepare: Callable[[Path], None] = lambda root: None,
        suite: str = "bookworm",
        *,
        fanotify: bool = False,
    ) -> None:
        self._prepare = prepare
        self._fanotify = fanotify
        self._suite = suite
        # The owner's pid is in it, for who finds the remains of one whose owner was killed.
        self.name = f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.folder = Path()
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    @property
    def root(self) -> Path:
        """The device's root file system, as this machine sees it; without its /run, /tmp and /proc."""
        return self.folder / "root"

    @property
    def in_network(self) -> tuple[str, ...]:
        """What, before a command, runs it on this machine but in the device's network."""
        return ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Self:
        _sweep()
        lower = base(self._suite)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        try:
            for folder in ("upper", "work", "root"):
                (self.folder / folder).mkdir()
            layers = f"lowerdir={lower},upperdir={self.folder}/upper,workdir={self.folder}/work"
            _call("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
            _call("ip", "netns", "add", self.name)
            _call("ip", "-n", self.name, "link", "set", "lo", "up")
            _call(*self.in_network, "sh", "-c", f"echo {_DATAGRAMS} >/proc/sys/net/unix/max_dgram_qlen")
            self._prepare(self.root)
            self.boot()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    # Power

    def boot(self) -> None:
        """Switch it on. Returns when systemd has started everything."""
        self._start()
        self._up()

    def _start(self) -> None:
        groups = self._cgroups()
        for group in groups:
            group.mkdir(exist_ok=True)
        container = [
            "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self.name}",
            f"--network-namespace-path=/run/netns/{self.name}", "--register=no", "--keep-unit",
            "--resolv-conf=off", "--link-journal=no", "--console=pipe", "--timezone=off",
            *([_FANOTIFY] if self._fanotify else []),
        ]  # fmt: skip
        with (self.folder / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", _START, "sh", " ".join(map(str, groups)), *container],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _up(self) -> None:
        """Returns when systemd has started everything."""
        assert self._nspawn is not None
        end = time.monotonic() + BOOT_SECONDS
        while not self._has_booted():
            if self._nspawn.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{self.name} did not boot:\n{self.console()}")
            time.sleep(0.1)  # systemd cannot be asked before it listens
        if self._fanotify:
            # Files of this machine, mounted there: what happens on its file system would be seen, too.
            self.attempt("findmnt -lno TARGET -t ext4,xfs,btrfs | xargs -r umount --lazy")

    def connect(self) -> None:
        """An uplink: an address, a default route, and a neighbour there that takes what it gets."""
        for words in (
            "link add eth0 type veth peer name outside0",
            "addr add 198.51.100.2/24 dev eth0",
            "link set eth0 up",
            "link set outside0 up",
            "route add default via 198.51.100.1",
            "neigh add 198.51.100.1 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
        ):
            _call("ip", "-n", self.name, *words.split())
        # There is no name server behind it: who asks for its own name would wait for one.
        self.run("echo 127.0.1.1 $(hostname) >>/etc/hosts")

    def reboot(self) -> None:
        """``systemctl reboot``, and wait until it is up again."""
        self._end("systemctl --no-block reboot")
        self.boot()

    def rebooted(self, times: int = 1) -> None:
        """Wait until something on it has rebooted it, that many *times*, and until it is up again."""
        for _ in range(times):
            # What reboots it may do so as soon as it is up, or before that.
            self._ended(BOOT_SECONDS + STOP_SECONDS)
            self._start()
        self._up()

    def power_off(self) -> None:
        """``systemctl poweroff``; :meth:`boot` switches it on again."""
        self._end("systemctl --no-block poweroff")

    def cut_power(self) -> None:
        """Every process ends at once. Files keep what was written, as this machine goes on."""
        if self._nspawn is not None:
            for group in self._cgroups():
                _kill_all(group)
            self._nspawn.wait(STOP_SECONDS)
            self._nspawn = None

    # What happens on it

    def attempt(
        self, command: str, *, seconds: float = COMMAND_SECONDS, user: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* by /bin/sh, as root or *user*; stdout and stderr are one."""
        inside = ["runuser", f"--user={user}", "--"] if user else []
        return subprocess.run(
            [*self._enter(), *inside, "/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            env=ENVIRONMENT,
            timeout=seconds,
            check=False,
        )

    def run(self, command: str, *, seconds: float = COMMAND_SECONDS, user: str = "") -> str:
        """What *command* prints. Raises AssertionError, with that, when it fails."""
        done = self.attempt(command, seconds=seconds, user=user)
        assert done.returncode == 0, f"{command} failed ({done.returncode}):\n{done.stdout}"
        return done.stdout

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """*command* by /bin/sh, left running: end it before the device."""
        return subprocess.Popen(
            [*self._enter(), "/bin/sh", "-c", command], stdin=subprocess.DEVNULL, env=ENVIRONMENT
        )

    def wait(self, command: str, seconds: float = WAIT_SECONDS) -> str:
        """What *command* prints as soon as it succeeds. Raises AssertionError after *seconds*."""
        done: list[subprocess.CompletedProcess[str]] = []

        def succeeds() -> bool:
            done[:] = [self.attempt(command)]
            return done[0].returncode == 0

        self.wait_until(succeeds, seconds)
        return done[0].stdout

    def wait_until(self, test: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Try until *test* holds. Raises AssertionError after *seconds*."""
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, f"not within {seconds:g} s on {self.name}"
            time.sleep(0.2)  # what happens inside another machine cannot be awaited

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Replace the file *path*, folders included. Nobody reads half of it."""
        folder, name = os.path.split(path)
        quoted, new = shlex.quote(path), shlex.quote(f"{folder}/.{name}.new")
        subprocess.run(
            [*self._enter(), "/bin/sh", "-c",
             f"mkdir -p {shlex.quote(folder)} && cat >{new} && chmod {mode:o} {new} && mv {new} {quoted}"],
            input=text.encode(), env=ENVIRONMENT, check=True, timeout=COMMAND_SECONDS,
        )  # fmt: skip

    def read(self, path: str) -> str:
        return self.run(f"cat {shlex.quote(path)}")

    def journal(self, *options: str, lines: int = 200) -> str:
        """The end of its journal."""
        return self.attempt(shlex.join(["journalctl", "--no-pager", f"--lines={lines}", *options])).stdout

    def console(self) -> str:
        """What it printed while it started and stopped."""
        return (self.folder / "console").read_text(errors="replace")[-5000:]

    # Within

    def _enter(self) -> list[str]:
        assert self._init, f"{self.name} is switched off"
        return ["nsenter", f"--target={self._init}", "--all"]

    def _has_booted(self) -> bool:
        assert self._nspawn is not None
        try:
            (nspawn,) = _children(self._nspawn.pid)
            self._init = next(pid for pid in _children(nspawn) if _name(pid) == "systemd")
            state = self.attempt("systemctl is-system-running --wait").stdout.strip()
        except (StopIteration, ValueError, FileNotFoundError, ProcessLookupError):
            return False
        return state in ("running", "degraded")

    def _end(self, command: str) -> None:
        self.attempt(command)
        self._ended()

    def _ended(self, seconds: float = STOP_SECONDS) -> None:
        assert self._nspawn is not None
        status = self._nspawn.wait(seconds)
        assert status in (0, REBOOT_STATUS), self.console()
        self._nspawn, self._init = None, 0

    def _cgroups(self) -> list[Path]:
        return [group / self.name for group in _CGROUPS if (group / "cgroup.procs").exists()]

    def _remove(self) -> None:
        self.cut_power()
        for group in self._cgroups():
            _kill_all(group)  # of a device whose owner was killed the last may be about to end
            _remove_cgroup(group)
        with suppress(RuntimeError):
            _call("ip", "netns", "delete", self.name)
        with suppress(RuntimeError):
            _call("umount", str(self.root))
        with suppress(OSError):
            (Path("/run/systemd/nspawn/propagate") / self.name).rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def told_on_failure(device: Device) -> Iterator[None]:
    """Show what happened on *device* when an assertion fails within."""
    try:
        yield
    except AssertionError:
        tell(device)
        raise


def _sweep() -> None:
    """
    Remove the folders, networks and cgroups of devices whose owners were killed.

    Several test processes may sweep at once: each goes on where the others were faster.
    """
    for network in Path("/run/netns").glob(f"{_PREFIX}*-*"):
        owner = network.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            left = Device()
            left.name = network.name
            left.folder = next(Path(tempfile.gettempdir()).glob(f"{network.name}-*"), Path("/nonexistent"))
            left._remove()


def tell(device: Device) -> None:
    """Show what happened on *device*, for who reads of a test that failed."""
    try:
        told = device.journal()
    except (AssertionError, subprocess.TimeoutExpired) as error:  # it is off, or hangs
        told = f"{error}; its console:\n{device.console()}"
    sys.stderr.write(f"--- journal of {device.name}\n{told}\n")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _members(group: Path) -> Sequence[int]:
    found: list[int] = []
    for folder, _, _ in os.walk(group):  # which passes over a folder that is gone
        with suppress(OSError):
            found += map(int, Path(folder, "cgroup.procs").read_text().split())
    return found


def _kill_all(group: Path) -> None:
    """End every process in *group*; those that are made meanwhile too."""
    end = time.monotonic() + STOP_SECONDS
    while members := _members(group):
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise AssertionError(f"{group} does not end: {members}")
        time.sleep(0.02)


def _remove_cgroup(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(FileNotFoundError):
            Path(folder).rmdir()


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed: {done.stderr}")
