"""What a process runs: its executable by path and file, and the script of an interpreter."""

# ruff: noqa: PTH116 - pathlib takes several times as long, and a look is hundreds of these calls

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mender_monitor_py import commandline
from mender_monitor_py.commandline import is_interpreter
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.regularfile import open_regular
from mender_monitor_py.host.trusted import real_path
from mender_monitor_py.proclist import DELETED, ELSEWHERE, Facts, Image, Opened, kernel_thread

_MAX_KEPT = 4096
_IN_USR = ("/bin/", "/sbin/", "/lib", "/share/", "/local/", "/games/")


class Images:
    """
    Reads images. *scripts*: an interpreter counts as the script it runs. *kernel_threads*: they count too.
    """

    def __init__(self, procfs: Procfs, *, scripts: bool, kernel_threads: bool) -> None:
        self._procfs = procfs
        self._scripts = scripts
        self._kernel_threads = kernel_threads
        self._digests: dict[tuple[int, ...], str] = {}

    def of_process(self, pid: int) -> Image | None:
        """
        What *pid* runs now; None: it ended, or is a kernel thread that does not count.

        Raises PermissionError.
        """
        executable = self._procfs.executable(pid)
        if executable is None:
            return None
        if not executable:
            stat = self._procfs.stat(pid) if self._kernel_threads else None
            return kernel_thread(stat.name) if stat is not None and stat.kernel_thread else None
        return Image(self._named(pid, executable), self.script(pid, executable))

    def of_opened(self, group: Sequence[Opened]) -> Image:
        """What was executed by opening the files of *group*: scripts, and the program that runs them."""
        *scripts, program = group
        executable = _named(program.path, program.device, program.inode)
        if scripts and self._scripts:
            script = _named(scripts[0].path, scripts[0].device, scripts[0].inode)
            return Image(executable, script.removeprefix(ELSEWHERE))
        return Image(executable, self.script(program.pid, program.path))

    def script(self, pid: int, executable: str) -> str | None:
        """
        What *pid* runs if *executable* is an interpreter, *executable* being the path that /proc has.

        None when that cannot be read any more: it ended, or became another program.
        """
        if not self._scripts or not is_interpreter(executable.removesuffix(DELETED)):
            return ""
        if self._procfs.executable(pid) != executable:  # not yet: the arguments are those of what it was
            return None
        arguments = self._procfs.arguments(pid)
        if not arguments or self._procfs.executable(pid) != executable:
            return None
        return self._real(pid, commandline.script(executable, arguments, self._procfs.folder(pid)))

    def _real(self, pid: int, script: str) -> str:
        """
        What is at *script*, by the name that fanotify has for it: without the links that were followed.

        A link that others than root could change is no name for what is behind it: it may have been another's
        a moment ago.
        """
        if not script.startswith("/") or (found := real_path(script)) == script:
            return script
        try:
            asked = os.stat(f"{self._procfs.path}/{pid}/root{script}")
        except OSError:
            return found  # it ended: what is here is all that is known
        return found if is_at(found, asked.st_dev, asked.st_ino) else script

    def facts(self, pid: int) -> Facts:
        """Who runs *pid*, as far as it can be read: the user, and the executable of the parent."""
        uid, stat = self._procfs.user_id(pid), self._procfs.stat(pid)
        try:
            parent = self._procfs.executable(stat.parent) if stat is not None else None
        except PermissionError:
            parent = None
        return Facts("" if uid is None else self._procfs.user(uid), parent or "")

    def digest(self, path: str, pid: int) -> str:
        """
        The SHA-256 of what *pid* executes, or of the file at *path* once it is gone; empty: cannot be read.

        Reads the whole file, once as long as it does not change: not for the event loop.
        """
        import hashlib  # it loads all of OpenSSL: 4 MiB that most devices can do without

        for candidate in (f"{self._procfs.path}/{pid}/exe", path):
            try:
                file = open_regular(candidate)
            except OSError:
                continue
            with file:
                status = os.fstat(file.fileno())
                key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                if key not in self._digests:
                    if len(self._digests) >= _MAX_KEPT:
                        self._digests.clear()
                    self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
                return self._digests[key]
        return ""

    def _named(self, pid: int, path: str) -> str:
        """The path of the executable of *pid* as a list has it; see :func:`_named`."""
        try:
            found = os.stat(f"{self._procfs.path}/{pid}/exe")
        except OSError:
            return path  # it ended: what is known of it is its path
        return _named(path, found.st_dev, found.st_ino)


def _named(path: str, device: int, inode: int) -> str:
    """
    The path of the file as a list has it; with ``elsewhere:`` when it is not the one that we have there.

    For a mount of another mount namespace the kernel tells the path from the root of that mount. A service
    manager mounts /usr and /etc over themselves, read-only: /usr/sbin/x is /sbin/x then.
    """
    if path.endswith(DELETED):
        return path
    if path.startswith(_IN_USR) and is_at(f"/usr{path}", device, inode):
        return f"/usr{path}"
    if is_at(path, device, inode):
        return path
    return f"/etc{path}" if is_at(f"/etc{path}", device, inode) else ELSEWHERE + path


class _Told(NamedTuple):
    """What a process runs, and what that was told from."""

    executable: str
    arguments: list[str] | None
    image: Image | None


class RunningImages:
    """
    What processes run, remembered from look to look: told anew when the executable or the arguments change.

    The name of a script may be relative to a folder that the process has left since.
    """

    def __init__(self, procfs: Procfs, images: Images) -> None:
        self._procfs = procfs
        self._images = images
        self._told: dict[int, _Told] = {}

    def executed(self, pid: int, image: Image) -> None:
        """*pid* has just executed *image*: its script, if it has one, was found in the right folder."""
        if image.script and len(self._told) < _MAX_KEPT:
            self._told[pid] = _Told(image.executable, self._procfs.arguments(pid), image)

    def ended(self, pid: int) -> None:
        self._told.pop(pid, None)

    def of_process(self, pid: int) -> Image | None:
        """As :meth:`Images.of_process` has it. Raises PermissionError."""
        executable = self._procfs.executable(pid)
        if executable is None:
            return None
        arguments = self._procfs.arguments(pid) if is_interpreter(executable) else None
        told = self._told.get(pid)
        if told is None or (told.executable, told.arguments) != (executable, arguments):
            told = self._told[pid] = _Told(executable, arguments, self._images.of_process(pid))
        return told.image

    def forget_others(self, pids: Iterable[int]) -> None:
        """Only *pids* are left."""
        self._told = {pid: self._told[pid] for pid in pids if pid in self._told}


def is_at(path: str, device: int, inode: int) -> bool:
    """Whether this very file is at *path* in our mount namespace."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (device, inode)
