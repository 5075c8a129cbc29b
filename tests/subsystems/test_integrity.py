"""Executables are changed, moved and removed for real."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from mender_monitor_py.baseline import Glob, render
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import filestates
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.filestates import expand
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.replaced import Replaced
from mender_monitor_py.host.scanner import Scanner
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import integrity
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.integrity import IntegrityCheck
from tests.fakes.judging import JudgingReport
from tests.fakes.mounts import bind, in_own_mounts, mount, unmount
from tests.fakes.watched import runs_on, watched

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CHECK = CheckId("integrity", "core")
SUMMARY = "Many executables are not as expected"


def check(files: str, **values: str) -> IntegrityCheck:
    return IntegrityCheck(Definition(CHECK, {"INTEGRITY_FILES": files, **values}), Settings())


def write(paths: Paths, rows: list[str]) -> None:
    paths.baseline_d.mkdir(parents=True, exist_ok=True)
    (paths.baseline_d / "integrity_core.list").write_bytes(render("integrity core", 1, rows))


async def learned(paths: Paths, one: IntegrityCheck) -> list[str]:
    """The list of what is there now is written, and given."""
    rows = [found.row for found in await one.survey(Host(paths, Clock()))]
    write(paths, rows)
    return rows


def name(path: Path, kind: str) -> str:
    return f"Executable {path} {kind}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Some executables, in a folder and in one below; ``link`` leads to one of them."""
    folder = tmp_path / "place"
    (folder / "bin").mkdir(parents=True)
    for number in range(3):
        file = folder / "bin" / f"tool{number}"
        file.write_text(f"#!/bin/sh\necho {number}\n")
        file.chmod(0o755)
    (folder / "link").symlink_to("bin/tool1")
    return folder


def all_of(place: Path) -> str:
    return f"{place}/bin/* {place}/link"


def overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"#!/bin/ba")


def secretly(file: Path) -> None:
    """The same size, and the old time of change."""
    before = file.stat()
    overwrite(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_over(file: Path) -> None:
    other = file.with_name("other")
    other.write_text("evil")
    other.chmod(0o755)
    other.rename(file)


def same_content(file: Path) -> None:
    other = file.with_name("other")
    shutil.copy(file, other)
    other.rename(file)


def swap_folder(file: Path) -> None:
    other = file.parent.with_name("other")
    shutil.copytree(file.parent, other)
    (other / file.name).write_text("evil")
    (other / file.name).chmod(0o755)
    file.parent.rename(file.parent.with_name("old"))
    other.rename(file.parent)


@pytest.mark.parametrize(
    ("attack", "kind", "reason"),
    [
        (overwrite, "changed", "sha256: "),
        (secretly, "changed", "sha256: "),
        (rename_over, "changed", "sha256: "),
        (same_content, "moved", "inode: "),
        (lambda file: file.chmod(0o777), "moved", "mode: 0777, expected 0755"),
        (lambda file: file.unlink(), "missing", "there is no such file"),
        (lambda file: file.unlink() or file.mkdir(), "changed", "it is a folder now"),
        (swap_folder, "changed", "sha256: "),
    ],
)
def test_each_way_to_change_a_file_is_a_finding_of_its_kind(paths, place, attack, kind, reason):
    async def scenario():
        file = place / "bin/tool0"
        one = check(all_of(place))
        await learned(paths, one)
        async with watched(paths, one) as report:
            attack(file)
            await report.until(lambda: name(file, kind) in report.open)
            alert = report.last(name(file, kind))
            assert (alert.level, alert.subject.name) == (CRITICAL, str(file))
            assert reason in alert.details.description

    asyncio.run(scenario())


def test_a_file_that_is_as_before_again_is_an_ok(paths, place):
    async def scenario():
        file = place / "bin/tool0"
        one = check(all_of(place))
        await learned(paths, one)
        async with watched(paths, one) as report:
            file.rename(place / "away")
            await report.until(lambda: report.open == [name(file, "missing")])
            (place / "away").rename(file)
            await report.until(lambda: not report.open)
            assert [(alert.level, alert.subject.status) for alert in report.alerts] == [
                (CRITICAL, "missing"),
                (OK, "as expected"),
            ]

    asyncio.run(scenario())


def test_a_link_that_leads_elsewhere_is_a_finding(paths, place):
    async def scenario():
        one = check(all_of(place))
        rows = await learned(paths, one)
        assert f"{place}/link -> bin/tool1" in "\n".join(rows)
        async with watched(paths, one) as report:
            (place / "new").symlink_to("bin/tool2")
            (place / "new").rename(place / "link")
            await report.until(lambda: report.open == [name(place / "link", "changed")])
            os.link(place / "bin/tool1", place / "same")
            (place / "new").symlink_to("same")
            (place / "new").rename(place / "link")
            await report.until(lambda: report.open == [name(place / "link", "moved")])
            told = report.last(name(place / "link", "moved")).details.description
            assert "link to: same, expected bin/tool1" in told

    asyncio.run(scenario())


def test_a_file_that_is_listed_by_several_names_is_a_finding_by_each(paths, place):
    async def scenario():
        (place / "link2").symlink_to("link")
        one = check(f"{place}/link2 {all_of(place)}")
        await learned(paths, one)
        async with watched(paths, one) as report:
            overwrite(place / "bin/tool1")
            names = [name(place / path, "changed") for path in ("bin/tool1", "link", "link2")]
            await report.until(lambda: report.open == names)

    asyncio.run(scenario())


def test_a_link_on_the_way_that_leads_elsewhere_is_a_finding(paths, tmp_path):
    async def scenario():
        for version in ("v1", "v2"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "app").write_text(version)
        (tmp_path / "current").symlink_to("v1")
        one = check(f"{tmp_path}/current/app")
        await learned(paths, one)
        async with watched(paths, one) as report:
            (tmp_path / "new").symlink_to("v2")
            (tmp_path / "new").rename(tmp_path / "current")
            await report.until(lambda: report.open == [name(tmp_path / "current/app", "changed")])

    asyncio.run(scenario())


def test_writing_by_another_name_of_the_file_shows_at_once(paths, place, tmp_path):
    async def scenario():
        file = place / "bin/tool0"
        (tmp_path / "elsewhere").mkdir()
        os.link(file, tmp_path / "elsewhere/name")
        one = check(all_of(place))
        await learned(paths, one)
        async with watched(paths, one) as report:
            overwrite(tmp_path / "elsewhere/name")
            await report.until(lambda: report.open == [name(file, "changed")])

    asyncio.run(scenario())


@needs_root
def test_a_mount_over_the_file_or_its_folder_is_seen(paths, place):
    async def look():
        file = place / "bin/tool0"
        evil = place / "evil"
        evil.mkdir()
        (evil / "tool0").write_text("evil")
        one = check(all_of(place))
        await learned(paths, one)
        async with watched(paths, one) as report:
            bind(evil / "tool0", file)
            await report.until(lambda: report.open == [name(file, "changed")])
            assert "mounted over" in report.last(name(file, "changed")).details.description
            unmount(file)
            await report.until(lambda: not report.open)
            mount("tmpfs", place / "bin")
            await report.until(lambda: name(file, "missing") in report.open)
            unmount(place / "bin")
            await report.until(lambda: not report.open)

    in_own_mounts(lambda: asyncio.run(look()))


def test_without_the_inode_a_copy_is_the_same(paths, place):
    async def scenario():
        one = check(all_of(place), INTEGRITY_INODE="no")
        await learned(paths, one)
        async with watched(paths, one) as report:
            same_content(place / "bin/tool0")
            rename_over(place / "bin/tool1")
            await report.until(lambda: len(report.open) == 2)
            assert report.open == [name(place / "bin/tool1", "changed"), name(place / "link", "changed")]

    asyncio.run(scenario())


def test_a_change_that_no_event_told_is_found_by_the_pass(paths, place):
    async def scenario():
        file = place / "bin/tool0"
        one = check(all_of(place), INTEGRITY_INTERVAL="1s")
        await learned(paths, one)
        async with watched(paths, one) as report:
            # Through a mapping of memory: inotify tells nothing of it while the file is open.
            with file.open("r+b") as opened:
                import mmap

                with mmap.mmap(opened.fileno(), 0) as memory:
                    memory[0:2] = b"??"
                    memory.flush()
                    await report.until(lambda: report.open == [name(file, "changed")])

    asyncio.run(scenario())


def test_a_change_while_nobody_watched_is_found_at_the_start(paths, place):
    async def scenario():
        one = check(all_of(place))
        await learned(paths, one)
        secretly(place / "bin/tool0")
        async with watched(paths, one) as report:
            await report.until(lambda: report.open == [name(place / "bin/tool0", "changed")])

    asyncio.run(scenario())


def test_a_restart_neither_repeats_nor_clears_what_still_is(paths, place):
    async def scenario():
        one = check(all_of(place))
        await learned(paths, one)
        report = JudgingReport()
        overwrite(place / "bin/tool0")
        async with watched(paths, one, report):
            await report.until(lambda: report.open)
        async with watched(paths, check(all_of(place)), report):
            await asyncio.sleep(1)
        assert [alert.level for alert in report.alerts] == [CRITICAL]

    asyncio.run(scenario())


def test_many_at_once_share_a_summary(paths, tmp_path):
    async def scenario():
        for number in range(60):
            (tmp_path / f"tool{number:02}").write_text(f"old {number}")
        one = check(f"{tmp_path}/tool*", INTEGRITY_MAX_ALERTS="5")
        await learned(paths, one)
        async with watched(paths, one) as report:
            for file in tmp_path.glob("tool*"):
                rename_over(file)
            await report.until(lambda: SUMMARY in report.open)
            await asyncio.sleep(1)
            assert len([alert for alert in report.alerts if alert.name != SUMMARY]) == 5
            assert len(report.alerts) < 12

    asyncio.run(scenario())


def test_a_big_file_does_not_delay_the_others(paths, place):
    async def scenario():
        big = place / "bin/big"
        with big.open("wb") as file:
            file.truncate(200 * 1024 * 1024)  # sparse: 100 s at the rate
        one = check(all_of(place), INTEGRITY_RATE="2M")
        small = check(f"{place}/bin/tool*")
        rows = [found.row for found in await small.survey(Host(paths, Clock()))]
        write(paths, [*rows, f"{'0' * 64} * * * * {big}"])
        async with watched(paths, one, knows=False) as report:
            start = time.monotonic()
            overwrite(place / "bin/tool0")
            await report.until(lambda: report.open == [name(place / "bin/tool0", "changed")])
            os.utime(big)  # by events, too
            overwrite(place / "bin/tool2")
            await report.until(lambda: name(place / "bin/tool2", "changed") in report.open)
            assert time.monotonic() - start < 60

    asyncio.run(scenario())


def test_a_file_that_never_rests_is_told_and_keeps_no_other_waiting(paths, place):
    """Who changes its times again and again does not keep it, or what else he changed, from being judged."""
    restless, other, end = place / "bin/tool0", place / "bin/tool2", threading.Event()

    def trouble() -> None:
        while not end.wait(0.001):
            os.utime(restless)

    async def scenario():
        with restless.open("ab") as file:
            file.truncate(32 * 1024 * 1024)  # no reading of it is faster than the clock of the times
        one = check(all_of(place))
        await learned(paths, one)
        async with watched(paths, one) as report:
            overwrite(restless)
            thread = threading.Thread(target=trouble)
            thread.start()
            try:
                await report.until(lambda: report.open == [name(restless, "changed")])
                overwrite(other)
                await report.until(lambda: name(other, "changed") in report.open)
            finally:
                end.set()
                thread.join()

    asyncio.run(scenario())


def test_lost_events_are_no_loss(paths, place):
    """inotify(7): when its queue is full the kernel drops events, and says so."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

    async def scenario():
        one = check(all_of(place))
        await learned(paths, one)
        async with watched(paths, one) as report:
            for number in range(most // 2 + 10):  # before the loop has its turn
                (place / f"bin/{number % 2}").touch()
            overwrite(place / "bin/tool0")
            await report.until(lambda: report.open == [name(place / "bin/tool0", "changed")])

    asyncio.run(scenario())


def test_a_running_process_of_another_file_than_the_one_at_its_path_is_a_finding(paths, place):
    async def scenario():
        program = place / "bin/sleep"
        shutil.copy("/bin/sleep", program)
        one = check(f"{place}/bin/sleep")
        await learned(paths, one)
        good = place / "good"
        program.rename(good)
        shutil.copy("/bin/cat", program)
        program.chmod(0o755)
        with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            program.unlink()
            good.rename(program)
            try:
                async with watched(paths, one) as report:
                    await report.until(lambda: report.open)
                    alert = report.alerts[0]
                    assert alert.name == name(program, "changed")
                    assert alert.subject.name == f"{program} as it runs"
                    assert f"pid: {process.pid}" in alert.details.description
                    assert process.stdin is not None
                    process.stdin.close()
                    process.wait()
                    os.utime(program)
                    await report.until(lambda: not report.open)
            finally:
                process.kill()

    asyncio.run(scenario())


def test_a_process_that_runs_what_a_deployment_has_replaced_is_noted_until_it_ends(paths, place, monkeypatch):
    """
    The list has the new file. Known or not: that is told while the check runs.
    """
    monkeypatch.setattr(integrity, "_REPLACED_S", 0.2)

    async def scenario():
        program = place / "bin/sleep"
        shutil.copy("/bin/sleep", program)
        replaced = Replaced(Procfs())
        with subprocess.Popen([program, "60"]) as process:
            try:
                rename_over(program)
                one = check(f"{place}/bin/sleep")
                await learned(paths, one)
                async with watched(paths, one, replaced=replaced) as report:
                    await report.until(lambda: report.open)
                    runs_on(replaced, process.pid)
                    await report.until(lambda: not report.open)
                    assert f"{program} (pid {process.pid})" in report.notes["replaced"]
                    process.kill()
                    process.wait()
                    await report.until(lambda: not report.notes["replaced"])
            finally:
                process.kill()

    asyncio.run(scenario())


def test_a_process_that_runs_the_listed_file_after_that_was_replaced_is_none(paths, place):
    async def scenario():
        program = place / "bin/sleep"
        shutil.copy("/bin/sleep", program)
        one = check(f"{place}/bin/sleep")
        await learned(paths, one)
        with subprocess.Popen([program, "60"]) as process:
            try:
                async with watched(paths, one) as report:
                    rename_over(program)
                    await report.until(lambda: report.open)
                    assert [alert.subject.name for alert in report.alerts] == [str(program)]
            finally:
                process.kill()

    asyncio.run(scenario())


def test_a_bad_line_is_named_and_the_rest_works(paths, place):
    async def scenario():
        one = check(all_of(place))
        rows = await learned(paths, one)
        file = paths.baseline_d / "integrity_core.list"
        file.write_bytes(file.read_bytes() + b"nonsense\n")
        async with watched(paths, one) as report:
            assert f"integrity_core.list:{len(rows) + 4}" in report.notes["baseline"]
            overwrite(place / "bin/tool0")
            await report.until(lambda: report.open == [name(place / "bin/tool0", "changed")])

    asyncio.run(scenario())


def test_without_a_list_the_check_is_unknown_and_recovers(paths, place):
    async def scenario():
        one = check(all_of(place))
        async with watched(paths, one, knows=False) as report:
            assert report.reason == "no baseline: run monitorctl baseline learn integrity core"
            await learned(paths, one)
            await report.until(lambda: report.reason == "")

    asyncio.run(scenario())


def test_globs_in_a_list_mean_what_is_there(paths, place):
    async def scenario():
        one = check(all_of(place))
        rows = await learned(paths, one)
        sha256 = rows[0].split()[0]
        write(paths, [f"{sha256} * * * * {place}/bin/tool0*", f"* * * 0755 * {place}/*/tool[12]"])
        async with watched(paths, one) as report:
            overwrite(place / "bin/tool1")
            (place / "bin/tool2").chmod(0o700)
            await report.until(lambda: report.open)
            assert report.open == [name(place / "bin/tool2", "moved")]

    asyncio.run(scenario())


def test_two_stars_cross_folders_and_no_links(tmp_path, monkeypatch):
    """Links that lead upwards are usual (/usr/bin/X11), and would be followed without end."""
    for path in ("a/x", "a/b/x", "a/b/.c/x", "a/b/y", "d e/x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for number in range(4):
        (tmp_path / f"a/up{number}").symlink_to("..")
    (tmp_path / "a/link").symlink_to("b/y")
    found = [os.path.relpath(path, tmp_path) for path in expand([Glob(f"{tmp_path}/**")])]
    assert found == ["a/b/.c/x", "a/b/x", "a/b/y", "a/link", "a/x", "d e/x"]
    assert expand([Glob(f"{tmp_path}/?/**/x")]) == [f"{tmp_path}/a/b/.c/x", f"{tmp_path}/a/b/x"]
    assert expand([Glob(f"{tmp_path}/d\\040e/*")]) == [f"{tmp_path}/d e/x"]
    monkeypatch.setattr(filestates, "MAX_FILES", 3)
    with pytest.raises(UnknownError, match=r"\*\* means more than 3 files"):
        expand([Glob(f"{tmp_path}/**")])


def test_two_learns_give_the_same_rows_and_hash_on_all_processors(paths, tmp_path):
    async def scenario():
        for number in range(300):
            (tmp_path / f"f{number}").write_text(str(number))
        one = check(f"{tmp_path}/f*")
        assert await learned(paths, one) == await learned(paths, one)
        steps = []
        scanner = Scanner()
        scanner.progress = lambda done, total: steps.append((done, total))
        found = await scanner.hash_all(expand([Glob(f"{tmp_path}/f*")]))
        assert [one.path for one in found] == sorted(one.path for one in found)
        assert steps[-1] == (300, 300)

    asyncio.run(scenario())
