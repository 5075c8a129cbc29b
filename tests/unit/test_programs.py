"""The programs on a disk: a tree as a device has it."""

import shutil
import threading

from mender_monitor_py.host.programs import Installed, installed, package_files
from mender_monitor_py.proclist import Image, of_file


def file(root, path, mode=0o755):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    target.chmod(mode)


def test_programs_and_nothing_else(tmp_path):
    """
    What may be executed in the folders of programs, by its path without links; of packages, anywhere.
    """
    for path in ("usr/bin/ls", "usr/local/bin/own", "etc/cron.daily/job", "opt/app/run", "srv/vendor/tool"):
        file(tmp_path, path)
    file(tmp_path, "usr/share/doc/text", 0o644)
    file(tmp_path, "usr/lib/libc.so.6")
    file(tmp_path, "usr/lib/module.so")
    file(tmp_path, "home/user/script")
    file(tmp_path, "srv/unpackaged")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/dir").symlink_to("ls")
    books = tmp_path / "var/lib/dpkg/info"
    books.mkdir(parents=True)
    (books / "coreutils.list").write_text("/.\n/bin\n/bin/ls\n/usr/share/doc/text\n")
    (books / "vendor.list").write_text("/srv/vendor/tool\n/srv/vendor/gone\n")

    assert [one.path for one in installed(tmp_path)] == [
        "/etc/cron.daily/job",
        "/opt/app/run",
        "/srv/vendor/tool",
        "/usr/bin/ls",
        "/usr/local/bin/own",
    ]
    assert "/usr/bin/ls" in package_files(tmp_path)


def test_files_that_come_and_go_are_no_reason_to_leave_others(tmp_path):
    """A list is learned on a device that works: apt, editors, logrotate."""
    for number in range(50):
        file(tmp_path, f"usr/bin/steady{number}")
    file(tmp_path, "var/lib/dpkg/info/x.list", 0o644)
    end = threading.Event()

    def trouble() -> None:
        while not end.is_set():
            for number in range(20):
                file(tmp_path, f"usr/bin/short{number}")
                file(tmp_path, f"usr/bin/folder{number}/x")
                file(tmp_path, f"var/lib/dpkg/info/short{number}.list", 0o644)
            for number in range(20):
                (tmp_path / f"usr/bin/short{number}").unlink()
                shutil.rmtree(tmp_path / f"usr/bin/folder{number}")
                (tmp_path / f"var/lib/dpkg/info/short{number}.list").unlink()

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        for _ in range(200):
            found = [one.path for one in installed(tmp_path) if "steady" in one.path]
            assert len(found) == 50
    finally:
        end.set()
        thread.join()


def test_a_device_without_packages_or_folders(tmp_path):
    assert installed(tmp_path) == []
    assert package_files(tmp_path) == set()


def test_busybox_has_its_applets(tmp_path):
    file(tmp_path, "bin/busybox")
    for name in ("sh", "wget"):
        (tmp_path / f"bin/{name}").symlink_to("busybox")
    (found,) = installed(tmp_path)
    assert found == Installed("/bin/busybox", ("sh", "wget"))
    images = of_file(found.path, found.applets)
    assert Image("/bin/busybox", "wget") in images
    assert Image("/bin/busybox", "-sh") in images  # a login's shell


def test_an_interpreter_by_itself_is_a_program_only_if_it_is_a_shell():
    assert of_file("/usr/bin/bash") == [Image("/usr/bin/bash")]
    assert of_file("/usr/bin/python3.11") == []
    assert of_file("/usr/bin/py3versions") == [Image("/usr/bin/py3versions")]
