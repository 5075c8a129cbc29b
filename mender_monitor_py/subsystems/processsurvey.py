"""What runs, held against the list of a process check: for `baseline learn`, and after a deployment."""

from __future__ import annotations

from collections.abc import Iterable

from mender_monitor_py import proclist
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.images import Images
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.proclist import DELETED, Entry, Image

RUNNING, INSTALLED = "running", "installed"


def running(procfs: Procfs, images: Images) -> set[Image]:
    """What runs now. Raises UnknownError."""
    found = set()
    for pid in procfs.pids():
        try:
            found.add(images.of_process(pid))
        except PermissionError as error:
            if not procfs.sees_all():
                raise UnknownError("not permitted to see what others run: CAP_SYS_PTRACE") from error
    return {image for image in found if image is not None and image.script is not None and not image.odd}


def installed() -> set[Image]:
    """What may run: the programs on the disk."""
    from mender_monitor_py.host import programs  # the watcher never learns

    return {image for one in programs.installed() for image in proclist.of_file(one.path, one.applets)}


def expected(entries: Iterable[Entry], images: Images, pid: int, path: str) -> bool:
    """
    Whether *entries* expected what *pid* runs as long as its executable was at *path*.

    Reads a whole file: not for the event loop. Raises PermissionError.
    """
    image = images.of_process(pid)
    if image is None:
        return True  # it has ended
    about = [entry for entry in entries if entry.names(image._replace(executable=path))]
    facts = images.facts(pid)
    facts = facts._replace(
        parent=facts.parent.removesuffix(DELETED),
        sha256=images.digest(path, pid) if any(entry.sha256 for entry in about) else "",
    )
    return any(entry.holds(facts) for entry in about)
