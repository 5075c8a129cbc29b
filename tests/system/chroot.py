"""A Debian that does not run, for what packages do to files: an overlay over a device's root file system."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.image import base

# What any package leaves behind: dpkg's and apt's own books, caches, backups of /etc/passwd.
NOT_OURS = (
    "etc/.pwd.lock", "etc/group-", "etc/gshadow-", "etc/ld.so.cache", "etc/passwd-", "etc/shadow-",
    "etc/subgid-", "etc/subuid-", "proc", "run", "tmp", "var/cache", "var/lib/apt", "var/lib/dpkg",
    "var/lib/ucf", "var/log",
)  # fmt: skip


class Chroot:
    """The file system, and commands in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, absolute: str) -> Path:
        """A path of the Debian, on this machine."""
        return self.root / absolute.lstrip("/")

    def sh(self, script: str, *arguments: str) -> str:
        """Run *script*; what it prints, or AssertionError with that when it fails."""
        done = self.attempt(script, *arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def attempt(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run *script*; stdout and stderr are one."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        return subprocess.run(
            ["chroot", str(self.root), "/bin/sh", "-ec", script, "sh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | {"DEBIAN_FRONTEND": "noninteractive"},
            check=False,
            timeout=600,
        )

    def apt(self, *debs: Path) -> str:
        """``apt install ./DEB...``"""
        return self.sh(
            'apt-get install -y --no-install-recommends --allow-downgrades "$@"', *self._inside(debs)
        )

    def dpkg(self, *debs: Path) -> str:
        """``dpkg -i DEB...``"""
        return self.sh('dpkg -i "$@"', *self._inside(debs))

    def _inside(self, debs: Iterable[Path]) -> list[str]:
        for deb in debs:
            shutil.copy(deb, self.path("/tmp"))
        return [f"/tmp/{deb.name}" for deb in debs]

    def snapshot(self) -> dict[str, str]:
        """Every file with its kind, rights and target, and those of /etc with their content."""
        found = {}
        listed = ["find", str(self.root), "-xdev", "-mindepth", "1", "-printf", r"%P\0"]
        names = subprocess.run(listed, stdout=subprocess.PIPE, check=True).stdout
        for name in sorted(os.fsdecode(names).split("\0")[:-1]):
            if any(name == known or name.startswith(f"{known}/") for known in NOT_OURS):
                continue
            path = self.root / name
            shown = f"{path.lstat().st_mode:o}"
            if path.is_symlink():
                shown += f" -> {path.readlink()}"
            elif name.startswith("etc/") and path.is_file():
                shown += f" {hashlib.sha256(path.read_bytes()).hexdigest()}"
            found[name] = shown
        return found


@contextmanager
def chroot(suite: str, folder: Path) -> Iterator[Chroot]:
    """A fresh Debian *suite*; what changes in it is in *folder*, and gone afterwards."""
    lower = base(suite)
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    root = folder / "root"
    options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)
    try:
        # invoke-rc.d(8): 101 forbids to start anything.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
        yield Chroot(root)
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", str(root)], check=True)
        shutil.rmtree(folder, ignore_errors=True)
