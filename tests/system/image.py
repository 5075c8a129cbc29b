"""A Debian root file system for the devices of the tests: built once, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mender-monitor-py"
BUILD_SECONDS = 900
# Another checkout may be using another image at this moment.
KEEP_SECONDS = 7 * 24 * 3600

BOOT = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "iproute2", "procps", "python3")
PACKAGES = (
    "apt-utils", "cron", "curl", "debsecan", "lmdb-utils", "logrotate", "lynis", "nginx", "openssh-server",
    "rsyslog", "sudo", "ucf", "python3-aiohttp", "python3-click", "python3-cryptography", "python3-httpx",
    "python3-jeepney", "python3-pyroute2", "libpcre2-8-0",
)  # fmt: skip
# Debian 13 has no mender-client.
EXTRA = {"bookworm": ("mender-artifact", "mender-client"), "trixie": ()}
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "dpkg-db-backup.timer",
    "e2scrub_all.timer", "fstrim.timer", "getty@tty1.service", "mender-client.service",
    "systemd-timesyncd.service",
)  # fmt: skip
# A test that needs one of these starts it.
DISABLED = ("lynis.timer", "nginx.service", "rsyslog.service")


def base(suite: str) -> Path:
    """
    The root file system of *suite*, read-only to everyone.

    It is made when it is not there: one to two minutes, and the package archive is needed. Raises
    RuntimeError with the end of the output when that fails.
    """
    packages = (*PACKAGES, *EXTRA[suite])
    recipe = hashlib.sha256(repr((suite, BOOT, packages, Path(__file__).read_text())).encode())
    home = CACHE / "devices"
    home.mkdir(parents=True, exist_ok=True)
    ready = home / f"{suite}-{recipe.hexdigest()[:12]}"
    with (home / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_dir():
            for old in home.glob(f"{suite}-*"):
                if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                    shutil.rmtree(old)
            building = home / f"building-{suite}"
            shutil.rmtree(building, ignore_errors=True)
            _build(building, suite, packages)
            building.rename(ready)
        os.utime(ready)
    return ready


def archive() -> str:
    """The Debian archive that this machine itself uses."""
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI)").split()
    found = next((uri for uri in listed if uri.rstrip("/").endswith("/debian")), None)
    assert found is not None, "apt knows no Debian archive: run apt-get update"
    return found


def _build(root: Path, suite: str, packages: Sequence[str]) -> None:
    source = archive()
    run("debootstrap", "--variant=minbase", f"--include={','.join(BOOT)}", suite, str(root), source)
    for proxy in Path("/etc/apt/apt.conf.d").glob("*proxy*"):
        shutil.copy(proxy, root / "etc/apt/apt.conf.d")
    # invoke-rc.d(8): 101 forbids; nothing is to be started in a chroot.
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    install = ("apt-get", "install", "-y", "--no-install-recommends", *packages)
    run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", *install)
    policy.unlink()
    run("chroot", str(root), "systemctl", "mask", *MASKED)
    run("chroot", str(root), "systemctl", "disable", *DISABLED)
    run("chroot", str(root), "apt-get", "clean")
    shutil.rmtree(root / "var/lib/apt/lists")
    # Each boot makes its own identity: machine-id(5).
    (root / "etc/machine-id").write_text("")
    with suppress(FileNotFoundError):
        (root / "var/lib/dbus/machine-id").unlink()


def run(*command: str) -> str:
    """What *command* prints, at low priority. Raises RuntimeError with the end of that when it fails."""
    done = subprocess.run(
        ["nice", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:5])} failed ({done.returncode}):\n{done.stdout[-3000:]}")
    return done.stdout
