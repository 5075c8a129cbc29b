"""Processes that hide, and programs under the name of another. Needs root."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import hidden, processevents
from mender_monitor_py.host.procconnector import ProcConnector
from mender_monitor_py.host.procfs import Procfs
from tests.fakes.executed import executed
from tests.fakes.network import program, running
from tests.fakes.process_checks import SLEEP, about, check, has_connector
from tests.fakes.watched import looked as watched

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


CLONE_NEWNS = 0x20000


@contextmanager
def own_mounts():
    """This thread has a mount namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    yield


def in_own_mounts(scenario):
    failure = []

    def work():
        try:
            with own_mounts():
                asyncio.run(scenario())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


@pytest.mark.parametrize("place", ["in our mounts", "in those of the system"])
def test_a_process_whose_folder_in_proc_is_covered(paths, tmp_path, place, monkeypatch):
    """Also when a service manager has given us mounts, and a /proc, of our own."""
    (tmp_path / "empty").mkdir()
    # This thread has mounts of its own, the others have those of the system.
    system = str(os.getpid())
    inside = () if place == "in our mounts" else ("nsenter", f"--target={system}", "--mount")
    monkeypatch.setattr(processevents, "SYSTEM", system)

    async def scenario():
        if inside:
            subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
        async with watched(paths, check(tmp_path)) as report:
            with subprocess.Popen(["sleep", "600"]) as found:
                try:
                    cover = f"/proc/{found.pid}"
                    subprocess.run([*inside, "mount", "--bind", tmp_path / "empty", cover], check=True)
                    await report.until(lambda: f"Hidden process {found.pid}" in report.open)
                    text = report.last(f"Hidden process {found.pid}").details.description
                    assert f"a mount covers {cover}" in text
                    subprocess.run([*inside, "umount", cover], check=True)
                    await report.until(lambda: f"Hidden process {found.pid}" not in report.open)
                finally:
                    found.kill()

    in_own_mounts(scenario)


def test_a_file_under_the_name_of_another(paths, tmp_path):
    """In a mount namespace of its own an attacker puts a program over one that is listed."""
    evil = program(tmp_path, "evil")
    script = (
        f"mount --make-rprivate / && mount --bind {evil} /usr/bin/tac && exec /usr/bin/tac -I -S -c '{SLEEP}'"
    )

    async def scenario():
        one = check(tmp_path, PROCESS_MODE="allow", PROCESS_ALLOW="/**, /** *")
        async with watched(paths, one) as report:
            with subprocess.Popen(
                ["unshare", "-m", "sh", "-c", script.replace("'", '"')], stdout=subprocess.PIPE
            ) as found:
                try:
                    await report.until(lambda: about(report, "elsewhere:/usr/bin/tac"))
                finally:
                    found.kill()

    asyncio.run(scenario())


class Filtered(Procfs):
    """A listing from which a rootkit has taken a process."""

    hidden = 0

    def pids(self):
        return [pid for pid in super().pids() if pid != self.hidden]


@pytest.mark.parametrize("source", ["connector", "cgroup", "signal 0"])
def test_a_process_that_the_listing_does_not_show(paths, tmp_path, monkeypatch, source):
    if source != "cgroup":
        monkeypatch.setattr(hidden, "cgroup_processes", lambda mounts: [])
    if source != "signal 0":
        monkeypatch.setattr(hidden.HiddenProcesses, "_sweep", lambda self: iter(()))

    async def scenario():
        one, procfs = check(tmp_path), Filtered()
        one.interval = 1
        async with watched(paths, one, procfs=procfs) as report:
            with executed(["sleep", "600"]) as found:
                try:
                    procfs.hidden = found.pid
                    await report.until(lambda: f"Hidden process {found.pid}" in report.open)
                    text = report.last(f"Hidden process {found.pid}").details.description
                    assert "command line: sleep 600" in text
                finally:
                    found.kill()
            await report.until(lambda: f"Hidden process {found.pid}" not in report.open)

    if source == "connector" and not has_connector():
        pytest.skip("no process connector here")
    asyncio.run(scenario())


NETLINK = """
import socket, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.bind((0, 0))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_process_that_its_netlink_socket_gives_away(paths, tmp_path, monkeypatch):
    """The kernel has its number in a list of sockets; all other traces are taken away here."""

    async def refused():
        raise UnknownError("no process connector here")

    monkeypatch.setattr(ProcConnector, "open", refused)
    monkeypatch.setattr(hidden, "cgroup_processes", lambda mounts: [])
    monkeypatch.setattr(hidden.HiddenProcesses, "_sweep", lambda self: iter(()))

    async def scenario():
        procfs = Filtered()
        with running(sys.executable, NETLINK) as found:
            procfs.hidden = found.pid
            async with watched(paths, check(tmp_path), procfs=procfs) as report:
                name = f"Hidden process {found.pid}"
                await report.until(lambda: name in report.open)
                assert "it has a netlink socket" in report.last(name).details.description

    asyncio.run(scenario())


FILTER = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
struct dirent *readdir(DIR *folder) {
    struct dirent *(*real)(DIR *) = dlsym(RTLD_NEXT, "readdir");
    struct dirent *entry;
    while ((entry = real(folder)) && getenv("HIDE") && strcmp(entry->d_name, getenv("HIDE")) == 0) {}
    return entry;
}
struct dirent64 *readdir64(DIR *folder) { return (struct dirent64 *)readdir(folder); }
"""


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("ps")), reason="needs gcc and ps")
def test_a_preloaded_library_that_hides_from_ps_does_not_hide_from_us(paths, tmp_path):
    (tmp_path / "filter.c").write_text(FILTER)
    library = tmp_path / "filter.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "filter.c"], check=True)
    evil = program(tmp_path, "evil")

    async def scenario():
        async with watched(paths, check(tmp_path)) as report:
            with running(evil, SLEEP) as found:
                environment = os.environ | {"LD_PRELOAD": str(library), "HIDE": str(found.pid)}
                listing = subprocess.run(
                    ["ps", "-e"], env=environment, capture_output=True, text=True, check=True
                )
                assert str(found.pid) not in [line.split()[0] for line in listing.stdout.splitlines()]
                await report.until(lambda: about(report, evil))

    asyncio.run(scenario())
