"""What the update client does while it installs: its processes, what they write, and what they were given."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mender_monitor_py.deployed import Image
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import fileevents, installation
from mender_monitor_py.host.fileevents import FileEvents, Touched
from mender_monitor_py.host.installation import FILES, Installation
from mender_monitor_py.host.mounts import Mount
from mender_monitor_py.host.procconnector import EXIT, FORK, Event
from mender_monitor_py.host.processevents import Execution, ProcessEvents
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.proclist import Opened
from mender_monitor_py.supervisor import STOP_S
from tests.fakes.monitor import PROJECT
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


def play_on_tmpfs(folder: Path, story: Callable[[Installation, Path], object]) -> None:
    """On a file system that has what fanotify needs, whatever the machine's own is."""

    def scenario() -> None:
        mount("tmpfs", folder)
        play(folder, story)

    in_own_mounts(scenario)


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
        child = f"/bin/sh -c 'echo new >{place}/ours; echo new >{place}/both; read line'"
        process = subprocess.Popen([client, "-c", f"{child}; true"], stdin=subprocess.PIPE)
        (place / "theirs").write_text("evil")
        await until(lambda: {f"{place}/ours", f"{place}/both"} <= made.written)
        (place / "both").write_text("evil")
        await until(lambda: {f"{place}/theirs", f"{place}/both"} <= made.others)
        assert made.explains(process.pid) and not made.explains(os.getpid())
        process.communicate(b"\n")
        assert f"{place}/ours" not in made.others and f"{place}/theirs" not in made.written
        await made.collected()
        assert f"{place}/ours" in made.written
        await made.end()
        assert not made.explains(process.pid)

    play_on_tmpfs(tmp_path, story)


@needs_root
def test_who_passes_for_the_client_is_not_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Anybody may start it, with modules of his own; or mount a file over it, where only he sees that.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        evil = client.with_name("evil")
        shutil.copy(client, evil)
        made.followed = True
        wait = [str(client), "-c", "echo; read line"]
        ways = {
            "root": wait,
            "user": ["setpriv", "--reuid=65534", "--clear-groups", *wait],
            "mount": ["unshare", "-m", "sh", "-c", f'mount --bind {evil} {client}; exec "$@"', "sh", *wait],
        }
        found = {}
        for name, command in ways.items():
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None and process.stdout.readline() == b"\n", name
                found[name] = made.explains(process.pid)
                process.communicate(b"\n")
        assert found == {"root": True, "user": False, "mount": False}

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # others may execute what is there
        play(Path(folder), story)


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

    play_on_tmpfs(tmp_path, story)


@needs_root
def test_who_changes_attributes_has_not_written(tmp_path: Path) -> None:
    """
    A mode, an owner, times, an extended attribute, or a file that is opened for writing and closed again. Who
    else does that may have written, or lets others write.
    """

    async def story(made: Installation, client: Path) -> None:
        place = client.parent
        names = (
            "away",
            "both",
            "covered",
            "grown",
            "linked",
            "mode",
            "moved",
            "opened",
            "owner",
            "times",
            "truncated",
            "xattr",
        )
        for name in names:
            (place / name).write_text("evil")
        made.begin()
        if made._events is None:
            return  # this kernel does not tell: nothing is explained by it
        code = (
            f"import os; os.chdir('{place}'); os.chmod('mode', 0o700); os.chown('owner', 1, 1)\n"
            "os.utime('times'); os.setxattr('xattr', 'trusted.x', b'x'); open('opened', 'a').close()\n"
            "open('truncated', 'w').close(); open('grown', 'a').write('x'); os.rename('moved', 'new')\n"
            "os.link('linked', 'name'); os.chmod('both', 0o700); open('both', 'a').write('x')\n"
            "open('covered', 'a').write('x'); os.rename('away', 'covered')\n"
            "open('last', 'w').close(); print(flush=True); input()"
        )
        command = [str(client), "-c", f'{sys.executable} -I -S -c "$1"; true', "sh", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            await until(lambda: f"{place}/last" in made.written)
            process.communicate(b"\n")

        def named(paths: set[str]) -> set[str]:
            return {path.removeprefix(f"{place}/") for path in paths if path.startswith(f"{place}/")}

        modified = {"both", "grown", "truncated"}
        assert named(made.modified) == modified
        assert named(made.written) == modified | {"away", "covered", "last", "moved", "name", "new"}
        (place / "mode").chmod(0o755)
        (place / "opened").open("a").close()
        await until(lambda: {f"{place}/mode", f"{place}/opened"} <= made.others)

    play_on_tmpfs(tmp_path, story)


@needs_root
def test_a_folder_too_deep_for_a_path_hides_nothing(tmp_path: Path) -> None:
    """
    Anybody may make one. What happens beside it is seen, and no descriptor is left open.
    """

    async def story(made: Installation, client: Path) -> None:
        made.begin()
        if made._events is None:
            return  # this kernel does not tell: nothing is explained by it
        code = (
            f"import os; os.chdir('{client.parent}')\n"
            "for _ in range(30): os.mkdir('x' * 200); os.chdir('x' * 200)\n"
            "for number in range(50): open(str(number), 'w').close()\n"
            f"open('{client.parent}/theirs', 'w').close()"
        )
        await made._starting  # type: ignore[misc]
        before = len(list(Path("/proc/self/fd").iterdir()))
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
        await until(lambda: f"{client.parent}/theirs" in made.others)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    play_on_tmpfs(tmp_path, story)


def test_a_flood_of_long_paths_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Anybody may write many files of long names: then nothing counts as the client's, and little is kept.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        made.begin()
        made._events = made._events or SimpleNamespace(close=lambda: None)  # type: ignore[assignment]
        made.written.add("/opt/x")
        kept = 0
        for number in range(installation._MOST_PATHS // 2):
            made._seen(Touched(f"/tmp/{number}{'x' * 4000}", 0, os.getpid(), moved=False))
            kept = max(kept, sum(map(sys.getsizeof, made.others)) if number % 1000 == 0 else 0)
        assert kept <= installation._MOST_BYTES
        assert not made.written and made._events is None

    play(tmp_path, story)


class Connector:
    """Tells of *events* when it is asked, and of nothing else."""

    lost = overruns = 0

    def __init__(self, *events: Event) -> None:
        self._events = list(events)

    def read(self) -> list[Event]:
        found, self._events = self._events, []
        return found


def test_who_has_ended_before_its_start_was_read_is_known(tmp_path: Path) -> None:
    """
    A copy takes a millisecond: that the client started who made it may wait to be read still.
    """
    gone, foreign = 1 << 30, 1 << 29

    async def story(made: Installation, client: Path) -> None:
        made.followed = True
        made._events = object()  # type: ignore[assignment]
        made._processes.follow([1])
        made._processes._connector = Connector(  # type: ignore[assignment]
            Event(FORK, 1, 1, gone, gone), Event(EXIT, gone, gone, 0, 0)
        )
        made._seen(Touched("/opt/agent", 0, gone, moved=False, named=True))
        made._seen(Touched("/opt/evil", 0, foreign, moved=False))
        assert (made.written, made.others) == ({"/opt/agent"}, {"/opt/evil"})
        made._events = made._processes._connector = None

    play(tmp_path, story)


def test_what_is_put_over_a_written_file_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Until it is written to, too.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        made.followed = True
        made._events = object()  # type: ignore[assignment]
        made._processes.follow([1])
        written, put = (Touched("/opt/x", 0, 1, False, named=one, modified=not one) for one in (False, True))
        for seen, modified in ((written, {"/opt/x"}), (put, set()), (written, {"/opt/x"})):
            made._seen(seen)
            assert made.modified == modified and made.written == {"/opt/x"}
        made._events = None

    play(tmp_path, story)


@needs_root
def test_what_was_written_last_is_read_at_the_end(tmp_path: Path) -> None:
    """
    Nobody else's write is left out because the client was done in the same moment.
    """

    async def story(made: Installation, client: Path) -> None:
        made.prepare()
        made.begin()
        if made._events is None:
            return  # this kernel does not tell: nothing is explained by it
        (client.parent / "theirs").write_text("evil")
        await made.collected()
        assert f"{client.parent}/theirs" in made.others

    play_on_tmpfs(tmp_path, story)


@needs_root
def test_who_writes_all_the_time_costs_little(tmp_path: Path) -> None:
    """
    Many writes to a file are one event, if that is left to the kernel for a moment. What is else done is
    read at once.
    """

    async def story() -> None:
        seen: list[Touched] = []
        try:
            events = FileEvents(seen.append, lambda: None, all_of_it=True)
        except UnknownError:
            return  # this kernel does not tell: nothing is explained by it
        events.mark([Mount("0:0", str(tmp_path), "tmpfs", "")])
        with (tmp_path / "log").open("ab", buffering=0) as log:
            await until(lambda: seen)
            began = time.monotonic()
            for _ in range(50):
                log.write(b"x")
                await asyncio.sleep(0.001)
            most = (time.monotonic() - began) / fileevents._PAUSE_S + 1
            modified = [one for one in seen if one.modified]
            assert 0 < len(modified) <= most
        (tmp_path / "last").touch()
        await until(lambda: seen[-1].path == f"{tmp_path}/last")
        events.close()

    def scenario() -> None:
        mount("tmpfs", tmp_path)
        asyncio.run(story())

    in_own_mounts(scenario)


@needs_root
def test_mounts_without_events_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    On all others it is seen who writes. Of many some are named.
    """
    caplog.set_level("INFO")

    async def story(made: Installation, client: Path) -> None:
        monkeypatch.setattr(
            FileEvents, "mark", lambda self, mounts: [f"/mnt/{number}" for number in range(7)]
        )
        made.prepare()
        if made._events is None:
            return  # this kernel does not tell: nothing is explained by it
        assert caplog.messages == [
            "who writes files while the update client installs is not seen on these mounts:"
            " /mnt/0, /mnt/1, /mnt/2, /mnt/3, /mnt/4 and 2 more"
        ]

    play(tmp_path, story)


@needs_root
def test_before_the_device_is_changed_little_is_kept(tmp_path: Path) -> None:
    """
    A download may take hours, in which others write: only the last of it is of interest.
    """

    async def story(made: Installation, client: Path) -> None:
        made.prepare()
        if made._events is None:
            return  # this kernel does not tell: nothing is explained by it
        for number in range(2 * installation._MOST_BEFORE + 1):
            made._seen(Touched(f"/var/log/{number}", 0, os.getpid(), moved=False))
        assert 0 < len(made.others) <= installation._MOST_BEFORE
        made.begin()
        made._seen(Touched("/opt/x", 0, os.getpid(), moved=False))
        assert {"/opt/x", f"/var/log/{2 * installation._MOST_BEFORE}"} <= made.others
        made._lost()
        assert not made.others and made._events is None

    play(tmp_path, story)


def test_a_client_that_starts_later_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After the reboot of an update the client may come up when the installation is watched already.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        made.begin()
        await made._starting  # type: ignore[misc]
        status = client.stat()
        with subprocess.Popen(["sleep", "60"]) as started:  # it is about to execute the client
            try:
                opened = Opened(started.pid, str(client), b"\x7fELF", status.st_dev, status.st_ino)
                elsewhere = opened._replace(inode=status.st_ino + 1)
                other = opened._replace(path="/bin/true")
                for one, explained in ((other, False), (elsewhere, False), (opened, True)):
                    made._processes._tell([Execution(started.pid, 1, ((one,),))], [], lost=False)
                    assert made.explains(started.pid) == explained
            finally:
                started.kill()

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


def test_the_end_of_the_daemon_does_not_wait_for_a_large_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A reboot of an update comes when some of it is unread: what else is known gets to the disk before the
    service manager ends the daemon.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)
    unit = (PROJECT / "scripts/systemd/mender-monitor.service").read_text()
    (patience,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)

    async def story(made: Installation, client: Path) -> None:
        files = client.parent / "mender" / FILES
        files.mkdir(parents=True)
        with (files / "image").open("wb") as file:
            file.truncate(1 << 36)
        made.begin()
        began = time.monotonic()
        await made.aclose()
        assert time.monotonic() - began < int(patience) - STOP_S - 2
        assert made._files == {}

    play(tmp_path, story)


def test_what_came_with_a_new_root_file_system_is_of_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It need not be committed: if it is given up, so is all that ran there. What was put there since is not.
    """
    monkeypatch.setattr(installation, "CLIENTS", installation.CLIENTS)

    async def story(made: Installation, client: Path) -> None:
        (link := client.with_name("link")).symlink_to(client)
        status = client.stat()
        device, since = str(status.st_dev), link.lstat().st_ctime

        async def brings(file: Path, device: str, booted: float) -> bool:
            made.image = lambda: Image(device, booted)
            return await made.brings(str(file), os.getpid(), lambda file, pid: "")

        made.active = True
        assert await brings(client, device, since + 1)
        assert await brings(link, device, since + 1)
        assert not await brings(client, device, status.st_ctime)
        assert not await brings(link, device, since)
        assert not await brings(client, f"{device}0", since + 1)
        assert not await brings(client.with_name("nothing"), device, since + 1)
        made.active = False
        assert not await brings(client, device, since + 1)

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


@pytest.mark.parametrize("installs", [False, True])
def test_one_that_begins_while_the_other_ends_is_followed(tmp_path: Path, *, installs: bool) -> None:
    """
    A download that failed, and the next attempt at the very moment: its processes are the client's.
    """

    async def story(made: Installation, client: Path) -> None:
        made.prepare()
        await asyncio.sleep(0)  # it has begun to listen
        ending = asyncio.create_task(made.end())
        await asyncio.sleep(0)
        made.begin() if installs else made.prepare()
        await ending
        assert (made.followed, made.active) == (True, installs)
        with subprocess.Popen([client, "-c", "read line"], stdin=subprocess.PIPE) as process:
            await until(lambda: made.explains(process.pid))
            process.communicate(b"\n")

    play(tmp_path, story)
