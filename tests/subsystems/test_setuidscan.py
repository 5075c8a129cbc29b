"""The scan for set-uid executables: what it asks the kernel for, what it holds, and the watcher meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.scanner import Scanned, Scanner
from mender_monitor_py.model import CheckId
from mender_monitor_py.settings import Settings
from mender_monitor_py.setuidlist import SGID, SUID, Found
from mender_monitor_py.subsystems import setuid
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.pace import Pace
from tests.fakes.judging import JudgingReport

PROJECT = Path(__file__).resolve().parents[2]
SCAN = PROJECT / "mender_monitor_py/scan.py"
needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


def request(*walks: Path, stop: tuple[str, ...] = ()) -> bytes:
    asked = {"do": "setuid", "walks": [*map(str, walks)], "stop": stop, "exclude": "", "bits": SUID | SGID}
    return json.dumps({**asked, "caps": True, "idle": False}).encode() + b"\n"


def traced(trace: Path, calls: str, asked: bytes, output: int) -> str:
    """The system calls of a scan."""
    process = subprocess.Popen(
        ["strace", "-o", str(trace), "-e", f"trace={calls}", sys.executable, "-P", str(SCAN)],
        stdin=subprocess.PIPE,
        stdout=output,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdin is not None
    process.stdin.write(asked)
    process.stdin.flush()  # and stays open: an end of it would end the scan
    process.wait(60)
    process.stdin.close()
    return trace.read_text()


def filled(folder: Path, files: int) -> Path:
    folder.mkdir()
    for number in range(files):
        (folder / f"plain{number}").touch()
    return folder


def test_all_of_a_great_folder_is_found_among_folders_and_links(tmp_path):
    """Its entries are looked at some at a time."""
    folder = filled(tmp_path / "great", 700)
    for number in range(300):
        (folder / f"folder{number}").mkdir()
        (folder / f"link{number}").symlink_to(folder)
    expected = set()
    for name in [*(f"sh{number}" for number in range(40)), "folder0/sh", "folder299/sh"]:
        (folder / name).touch()
        (folder / name).chmod(0o4644 if name == "sh0" else 0o4755)
        expected.add(str(folder / name))
    found, summary = asyncio.run(Scanner().setuid([str(tmp_path)], [], "", SUID | SGID, capabilities=True))
    assert {one.path for one in found} == expected
    assert (summary.files, summary.folders, summary.found) == (742, 302, 42)


@pytest.mark.parametrize("entries", [255, 256, 257, 512])
def test_no_entry_is_left_out_where_one_lot_ends(tmp_path, entries):
    folder = filled(tmp_path / "great", entries)
    found, summary = asyncio.run(Scanner().setuid([str(folder)], [], "", SUID, capabilities=False))
    assert (found, summary.files) == ([], entries)


@needs_strace
def test_only_files_are_asked_for_their_state(tmp_path):
    """What is mounted may not answer, and a link is not its target."""
    folder = filled(tmp_path / "place", 2)
    (folder / "barrier").mkdir()
    (folder / "link").symlink_to("/nowhere")
    os.mkfifo(folder / "pipe")
    asked = request(folder, stop=(f"{folder}/barrier",))
    calls = traced(tmp_path / "trace", "%file,fchdir,fstat,open,openat", asked, subprocess.DEVNULL)
    assert '"plain0"' in calls
    assert not [name for name in ("barrier", "link", "pipe") if f'{name}"' in calls]


@needs_strace
def test_a_scan_ends_when_nobody_listens(tmp_path):
    """The watcher may have been killed."""
    for number in range(20):
        folder = filled(tmp_path / f"folder{number}", 1)
        (folder / "plain0").chmod(0o4755)
    read, write = os.pipe()
    os.close(read)
    try:
        calls = traced(tmp_path / "trace", "openat", request(tmp_path), write)
    finally:
        os.close(write)
    assert calls.count("plain0") == 1


def test_of_a_great_folder_little_is_held_at_once(tmp_path):
    """All names of it would be a megabyte."""
    filled(tmp_path / "great", 8000)
    code = f"""
        import sys, tracemalloc
        from mender_monitor_py.setuidscan import SetuidScan
        scan = SetuidScan([{str(tmp_path)!r}], [], "", {SUID}, caps=False)
        tracemalloc.start()
        scan.run()
        print(tracemalloc.get_traced_memory()[1], file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"files": 8000' in done.stdout
    assert int(done.stderr) < 200_000


class HeldScanner(Scanner):
    """Its scans end when they may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.may_end = asyncio.Event()

    async def setuid(self, *_: object, **__: object) -> tuple[list[Found], Scanned]:
        self.begun.put_nowait(None)
        await self.may_end.wait()
        return [], Scanned(0, 0, 0, 0, ())


def test_one_that_is_asked_for_during_a_scan_follows_it_and_costs_nothing_until_then(
    paths, tmp_path, monkeypatch
):
    """At idle priority a scan may take long: who waits for its end must not turn round and round."""
    monkeypatch.setattr(setuid, "_RESCAN_S", 0.0)
    monkeypatch.setattr(Pace, "pause", lambda _: 0.0)
    values = {"SETUID_PATHS": str(tmp_path), "SETUID_ALLOW": "/none"}
    check = setuid.SetuidCheck(Definition(CheckId("setuid", "system"), values), Settings())
    turns = 0

    async def scenario() -> None:
        host, scanner = Host(paths, Clock()), HeldScanner()
        host._scanner = scanner
        watch = setuid._Watch(check, host, JudgingReport())
        refresh = watch._expected.refresh

        def counted() -> bool:
            nonlocal turns
            turns += 1
            return refresh()

        monkeypatch.setattr(watch._expected, "refresh", counted)
        running = asyncio.create_task(watch.run())
        await scanner.begun.get()
        watch._scan_soon()
        watch._scan_at = 0.0  # the interval is over, too
        watch._wake()
        for _ in range(500):
            await asyncio.sleep(0)
        assert turns <= 3
        assert scanner.begun.empty()
        scanner.may_end.set()
        await asyncio.wait_for(scanner.begun.get(), 30)
        running.cancel()
        await asyncio.wait([running])
        await watch.aclose()
        await host.aclose()

    asyncio.run(scenario())
