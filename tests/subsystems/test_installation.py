"""What the update client does while it installs: its processes, what they write, and what they were given."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mender_monitor_py.host import installation
from mender_monitor_py.host.installation import FILES, Installation
from mender_monitor_py.host.processevents import Execution, ProcessEvents
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.proclist import Opened
from tests.fakes.mounts import in_own_mounts, mount

SOON = 30.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: fanotify")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.02)


def play(folder: Path, story: Callable[[Installation, Path], object]) -> None:
    """*story* with an installation, and a shell that passes for the update client."""

    async def run() -> None:
        processes = ProcessEvents()
        made = Installation(folder / "mender", Procfs(), processes)
        try:
            await story(made, client)  # type: ignore[misc]
        finally:
            await made.aclose()
            processes.close()

    client = folder / "client"
    shutil.copy(os.path.realpath("/bin/sh"), client)
    installation.CLIENTS = frozenset({str(client)})
    asyncio.run(run())


@needs_root
def test_who_writes_what_is_known(tmp_path: Path) -> None:
    """
    What the client and its children write is its own; what others write too is not only that.
    """

    async def story(made: Installation, client: Path) -> None:
        made.begin()
        if made._events is None:
            return  # this kernel does not tell: nothing is explained by it
        place = client.parent
        # The child lives until it was looked at: there may be no process connector here.
        child = f"/bin/sh -c 'echo new >{place}/ours; echo new >{place}/both; sleep 0.5'"
        process = subprocess.Popen([client, "-c", f"{child}; true"])
        (place / "theirs").write_text("evil")
        await until(lambda: {f"{place}/ours", f"{place}/both"} <= made.written)
        (place / "both").write_text("evil")
        await until(lambda: {f"{place}/theirs", f"{place}/both"} <= made.others)
        assert made.explains(process.pid) and not made.explains(os.getpid())
        process.wait()
        assert f"{place}/ours" not in made.others and f"{place}/theirs" not in made.written
        await made.collected()
        assert f"{place}/ours" in made.written
        await made.end()
        assert not made.explains(process.pid)

    def scenario() -> None:
        # A file system that has what fanotify needs, whatever the machine's own is.
        mount("tmpfs", tmp_path)
        play(tmp_path, story)

    in_own_mounts(scenario)


@needs_root
def test_who_removes_what_is_known(tmp_path: Path) -> None:
    """
    Also of files whose folder went with them before that was read, where somebody has asked for it.
    """

    async def story(made: Installation, client: Path) -> None:
        place = client.parent
        for name in ("folder", "kept", "unknown"):
            (place / name).mkdir()
            (place / name / "file").touch()
        made.folders["a list"] = {f"{place}/folder", f"{place}/nowhere"}
        made.begin()
        if made._events is None:
            return  # this kernel does not tell: nothing is explained by it
        code = (
            f"import os, shutil; os.chdir('{place}'); shutil.rmtree('folder'); shutil.rmtree('unknown')\n"
            "os.unlink('kept/file'); print(flush=True); input()"
        )
        command = [str(client), "-c", f'{sys.executable} -I -S -c "$1"; true', "sh", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the loop waits meanwhile: nothing is read before all is gone
            await until(lambda: {f"{place}/folder/file", f"{place}/kept/file"} <= made.written)
            process.communicate(b"\n")
        (place / "kept").rmdir()
        await until(lambda: f"{place}/kept" in made.others)
        assert not [path for path in made.written | made.others if path.startswith(f"{place}/unknown/")]

    def scenario() -> None:
        mount("tmpfs", tmp_path)
        play(tmp_path, story)

    in_own_mounts(scenario)


def test_a_client_that_starts_later_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the reboot of an update the client may come up when the installation is watched already.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        made.begin()
        await asyncio.sleep(0.1)
        gone = 1 << 30  # what /proc does not know any more
        opened = Opened(gone, str(client), b"\x7fELF", 1, 2)
        other = opened._replace(path="/bin/true")
        for program, explained in ((other, False), (opened, True)):
            made._processes._tell([Execution(gone, 1, ((program,),))], [], lost=False)
            assert made.explains(gone) == explained

    play(tmp_path, story)


def test_the_payload_is_read_though_the_client_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its files are opened when the installation is seen; the next moment they may be gone.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        files = client.parent / "mender" / FILES
        files.mkdir(parents=True)
        (files / "tool").write_text("tool")
        (files / "link").symlink_to("/etc/passwd")
        made.begin()
        shutil.rmtree(files)
        await made.collected()
        assert [list(names) for names in made.payload.values()] == [["tool"]]

    play(tmp_path, story)


def test_one_right_behind_another_has_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The end of the first is given up while its files are read: no watching of it and no file is left, and what
    its files are does not come to the second one. Of many files some are held open, however they come.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        files = client.parent / "mender" / FILES
        files.mkdir(parents=True)
        (files / "old").write_text("old")
        made.begin()
        ending = asyncio.create_task(made.collected())
        await asyncio.sleep(0)  # it has stopped to watch, and reads
        ending.cancel()
        shutil.rmtree(files)
        files.mkdir()
        for number in range(2 * installation._MOST_FILES):
            (files / f"{number}").write_text(f"{number}")
        made.forget()
        made.begin()
        await asyncio.wait([ending])
        for number in range(installation._MOST_FILES):
            (files / f"{number}").unlink()
        made._open_files()
        assert len(made._files) == installation._MOST_FILES
        await made.collected()
        assert made._files == {} and made._processes._listeners == []
        assert len(made.payload) == installation._MOST_FILES
        assert not [names for names in made.payload.values() if "old" in names]

    play(tmp_path, story)
