"""Images: which path and which script a process counts by."""

import os
from pathlib import Path

import pytest

from mender_monitor_py.host.images import Images
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.proclist import Image, Opened


@pytest.fixture
def images(tmp_path):
    return Images(Procfs(tmp_path), scripts=True, kernel_threads=False)


def process(root: Path, pid: int, executable: str, *arguments: str) -> None:
    folder = root / f"proc/{pid}"
    folder.mkdir(parents=True)
    (folder / "exe").symlink_to(executable)
    (folder / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))


def opened(path: str, real: str, head: bytes = b"\x7fELF") -> Opened:
    status = Path(real).stat()
    return Opened(7, path, head, status.st_dev, status.st_ino)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/bin/true", "/usr/bin/true"),
        ("/bin/true", "/usr/bin/true"),  # as a service sees it whose /usr is a mount of its own
        ("/somewhere/true", "elsewhere:/somewhere/true"),
        ("/usr/bin/env", "elsewhere:/usr/bin/env"),  # another file is there
        ("/usr/bin/true (deleted)", "/usr/bin/true (deleted)"),
    ],
)
def test_a_path_is_that_of_the_system(images, path, expected):
    assert images.of_opened([opened(path, "/usr/bin/true")]) == Image(expected)


def test_a_script_of_a_mount_of_etc(images):
    """
    A service manager mounts /etc over itself: a script there is named from the root of that mount.
    """
    found = images.of_opened(
        [opened("/passwd", "/etc/passwd", b"#!/b"), opened("/bin/true", "/usr/bin/true")]
    )
    assert found == Image("/usr/bin/true", "/etc/passwd")


def test_a_script_is_read_from_the_command_line(images, tmp_path):
    process(tmp_path, 7, "/usr/bin/bash", "bash", "/opt/job.sh")
    assert images.script(7, "/usr/bin/bash") == "/opt/job.sh"


def test_the_command_line_of_what_it_became_meanwhile_is_not_its_own(images, tmp_path):
    """
    ``bash -c 'sudo -n true'`` is sudo a moment later: "true" is no script of bash.
    """
    process(tmp_path, 7, "/usr/bin/sudo", "sudo", "-n", "true")
    assert images.script(7, "/usr/bin/bash") is None


def test_the_command_line_of_what_it_was_before_is_not_its_own(images, tmp_path, monkeypatch):
    """
    The kernel tells that a shell is opened when the process is still the program that will become it.
    """
    process(tmp_path, 7, "/usr/bin/python3", "python3", "/opt/job.py")
    read = Procfs.arguments

    def becomes_a_shell(self, pid):
        found = read(self, pid)
        (tmp_path / "proc/7/exe").unlink()
        (tmp_path / "proc/7/exe").symlink_to("/usr/bin/dash")
        return found

    monkeypatch.setattr(Procfs, "arguments", becomes_a_shell)
    assert images.script(7, "/usr/bin/dash") is None


@pytest.mark.parametrize("runs", [True, False])
def test_a_script_by_a_link_is_the_one_that_it_leads_to(images, tmp_path, runs):
    """
    By the events of the kernel it is. A look may find the process first, and find it ended then.
    """
    (tmp_path / "real.py").touch()
    (tmp_path / "link").symlink_to("real.py")
    process(tmp_path, 7, "/usr/bin/python3", "python3", f"{tmp_path}/link")
    if runs:
        (tmp_path / "proc/7/root").symlink_to("/")
    assert images.script(7, "/usr/bin/python3") == f"{tmp_path}/real.py"


def test_a_link_of_another_root_is_no_link_of_ours(images, tmp_path):
    (tmp_path / "real.py").touch()
    (tmp_path / "link").symlink_to("real.py")
    theirs = tmp_path / f"proc/7/root{tmp_path}/link"
    process(tmp_path, 7, "/usr/bin/python3", "python3", f"{tmp_path}/link")
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert images.script(7, "/usr/bin/python3") == f"{tmp_path}/link"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_what_was_put_in_the_place_of_an_executable_is_not_waited_for(images, tmp_path, make):
    """
    The process that ran it is gone, and whoever may write there has put something else there.
    """
    make(tmp_path / "app")
    assert images.digest(str(tmp_path / "app"), 7) == ""
