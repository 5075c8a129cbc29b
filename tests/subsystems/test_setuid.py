"""Set-uid executables are made for real, in folders and mounts of the test's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from mender_monitor_py.baseline import Glob, render
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.scanner import Scanner
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.setuidlist import SGID, SUID, exclusion
from mender_monitor_py.subsystems import setuid
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.setuid import SetuidCheck
from tests.fakes.judging import JudgingReport
from tests.fakes.mounts import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_SYS_ADMIN,
    in_own_mounts,
    mount,
)
from tests.fakes.watched import watched

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CHECK = CheckId("setuid", "system")
MS_NOSUID = 2


def check(folder: Path, **values: str) -> SetuidCheck:
    named = {"SETUID_PATHS": str(folder), "SETUID_ALLOW": "/none", **values}
    return SetuidCheck(Definition(CHECK, named), Settings())


def shell(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile("/bin/sh", path)
    path.chmod(mode)
    return path


def name(path: Path | str) -> str:
    return f"Unexpected set-uid executable {path}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    (folder / "below").mkdir(parents=True)
    return folder


def chmod(source: Path, target: Path) -> None:
    subprocess.run(["chmod", "u+s", shell(target)], check=True)


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-p", shell(source, 0o4755), target], check=True)


def move(source: Path, target: Path) -> None:
    subprocess.run(["mv", shell(source, 0o2755), target], check=True)


def hard_link(source: Path, target: Path) -> None:
    os.link(shell(source, 0o4755), target)


def set_capability(source: Path, target: Path) -> None:
    subprocess.run(["setcap", "cap_setuid+ep", shell(target)], check=True)


def move_a_folder(source: Path, target: Path) -> None:
    shell(source.parent / "folder" / target.name, 0o4755)
    target.parent.rmdir()
    (source.parent / "folder").rename(target.parent)


@needs_root
@pytest.mark.parametrize("attack", [chmod, copy, move, hard_link, set_capability, move_a_folder])
def test_each_way_to_make_one_is_a_finding_and_its_end_an_ok(paths, place, tmp_path, attack):
    async def scenario():
        target = place / "below" / "sh"
        (tmp_path / "elsewhere").mkdir()
        async with watched(paths, check(place)) as report:
            attack(tmp_path / "elsewhere" / "sh", target)
            await report.until(lambda: report.alerts)
            alert = report.alerts[0]
            assert (alert.level, alert.name, alert.subject.name) == (CRITICAL, name(target), str(target))
            assert "sha256: " in alert.details.description
            assert "pid" in alert.details.description  # who did it
            target.unlink()
            await report.until(lambda: len(report.alerts) > 1)
            assert (report.alerts[1].level, report.alerts[1].name) == (OK, name(target))

    asyncio.run(scenario())


@needs_root
def test_what_is_no_set_uid_executable_is_no_finding(paths, place):
    async def scenario():
        async with watched(paths, check(place, SETUID_EXCLUDE=f"{place}/below/out* /nowhere")) as report:
            (place / "folder").mkdir(mode=0o2755)
            (place / "folder").chmod(0o2755)
            shell(place / "plain")
            shell(place / "below/out/sh", 0o4755)
            shell(place / "below/outside", 0o4755)
            (place / "link").symlink_to("/usr/bin/su")
            last = shell(place / "last", 0o4755)
            await report.until(lambda: report.alerts)
            assert report.open == [name(last)]

    asyncio.run(scenario())


@needs_root
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(b"#!/bin/sh\n") and path.chmod(0o4755), "sha256: "),
        (lambda path: path.chmod(0o6755), "mode: 6755, expected 4755"),
        (lambda path: subprocess.run(["chown", "1", path], check=True), "owner: 1:0, expected 0:0"),
        (lambda path: subprocess.run(["setcap", "cap_net_raw+ep", path], check=True), "caps: cap_net_raw=ep"),
    ],
)
def test_a_listed_file_that_is_other_than_listed_is_a_finding(paths, place, change, reason):
    async def scenario():
        listed = shell(place / "sh", 0o4755)
        one = check(place, SETUID_ALLOW="")
        learn(paths, await surveyed(paths, one))
        async with watched(paths, one) as report:
            assert report.alerts == []
            change(listed)
            listed.chmod(listed.stat().st_mode | 0o4000)  # a change of owner takes the bit away
            await report.until(lambda: report.alerts)
            assert reason in report.alerts[0].details.description
            listed.unlink()
            shell(listed, 0o4755)
            await report.until(lambda: not report.open)

    asyncio.run(scenario())


def learn(paths: Paths, rows: list[str]) -> None:
    paths.baseline_d.mkdir(parents=True, exist_ok=True)
    (paths.baseline_d / "setuid_system.list").write_bytes(render("setuid system", 1, rows))


async def surveyed(paths: Paths, one: SetuidCheck) -> list[str]:
    return [found.row for found in await one.survey(Host(paths, Clock()))]


@needs_root
@pytest.mark.parametrize("raw", [b"a\nb", b"\xff\xfe", "ü \\ *".encode(), b"\x1b[31m"])
def test_names_of_any_bytes_are_found_listed_and_shown_escaped(paths, place, raw):
    async def scenario():
        path = os.fsencode(place) + b"/" + raw
        shutil.copyfile(b"/bin/sh", path)
        Path(os.fsdecode(path)).chmod(0o4755)
        one = check(place, SETUID_ALLOW="")
        rows = await surveyed(paths, one)
        assert len(rows) == 1
        assert rows[0].isprintable()
        learn(paths, rows)
        async with watched(paths, one) as report:
            assert report.alerts == []
            learn(paths, ["/none"])
            await report.until(lambda: report.alerts)
            assert report.alerts[0].name.isprintable()

    asyncio.run(scenario())


@needs_root
def test_loops_of_links_end_and_a_path_longer_than_the_kernel_takes_is_followed(paths, place):
    async def scenario():
        (place / "below" / "up").symlink_to(place)
        (place / "round").symlink_to("round")
        deep = os.open(place, os.O_RDONLY)
        for _ in range(60):  # 60 * 100 characters
            os.mkdir("d" * 100, dir_fd=deep)
            below = os.open("d" * 100, os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
        descriptor = os.open("sh", os.O_WRONLY | os.O_CREAT, 0o755, dir_fd=deep)
        os.fchmod(descriptor, 0o4755)
        os.close(descriptor)
        os.close(deep)
        rows = await surveyed(paths, check(place))
        assert len(rows) == 1
        assert rows[0].split()[0].endswith("d/sh")

    try:
        asyncio.run(scenario())
    finally:
        subprocess.run(["rm", "-rf", place], check=True)  # rmtree of Python does not get that deep


@needs_root
def test_mounts_are_told_apart_by_nosuid(tmp_path):
    def scenario() -> None:
        place, paths = tmp_path / "place", Paths(tmp_path / "root")
        for folder in ("with", "without"):
            (place / folder).mkdir(parents=True)
        mount("tmpfs", place / "with", flags=MS_NOSUID)
        mount("tmpfs", place / "without")
        asyncio.run(look(place, paths))

    async def look(place: Path, paths: Paths) -> None:
        async with watched(paths, check(place)) as own:
            async with watched(paths, check(place, SETUID_XDEV="no")) as report:
                shell(place / "with/sh", 0o4755)
                shell(place / "without/sh", 0o4755)
                await report.until(lambda: len(report.open) == 2)
                told = {alert.subject.name: alert.subject.status for alert in report.alerts}
                assert told == {str(place / "with/sh"): "nosuid", str(place / "without/sh"): "set-uid"}
                assert "no effect here" in report.last(name(place / "with/sh")).details.description
                # A mount that comes later is scanned, too.
                (place / "later").mkdir()
                mount("tmpfs", place / "later")
                late = shell(place / "later/sh", 0o4755)
                await report.until(lambda: name(late) in report.open)
            assert own.alerts == []  # SETUID_XDEV=yes stays on its file system

    in_own_mounts(scenario)


@needs_root
def test_an_overlay_is_looked_through_once_by_the_scan_or_by_events(tmp_path):
    def scenario() -> None:
        place, paths = tmp_path / "place", Paths(tmp_path / "root")
        layers = tmp_path / "layers"
        for folder in (place, layers):
            folder.mkdir()
        mount("tmpfs", layers)
        for name_of in ("lower", "upper", "work"):
            (layers / name_of).mkdir()
        shell(layers / "lower/old", 0o4755)
        options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
        mount("overlay", place, options)
        asyncio.run(look(place, paths))

    async def look(place: Path, paths: Paths) -> None:
        allowed = f"{place}/old"
        async with watched(paths, check(place, SETUID_ALLOW=allowed, SETUID_INTERVAL="1s")) as report:
            new = shell(place / "new", 0o4755)
            await report.until(lambda: report.open == [name(new)])

    in_own_mounts(scenario)


@needs_root
def test_without_fanotify_the_status_says_so_and_the_folders_of_known_files_are_watched(paths, place):
    async def look() -> None:
        known = shell(place / "known", 0o4755)
        async with watched(paths, check(place, SETUID_ALLOW=str(known))) as report:
            assert "CAP_SYS_ADMIN" in report.notes["events"]
            new = shell(place / "new", 0o4755)
            await report.until(lambda: report.open == [name(new)])

    in_own_mounts(lambda: asyncio.run(look()), without=[CAP_SYS_ADMIN])


@needs_root
@pytest.mark.parametrize("mode", [0, 0o400])  # 0400: the names can be read, the files' states cannot
def test_folders_that_cannot_be_read_are_counted_and_the_rest_is_found(paths, place, mode):
    async def look() -> None:
        shell(place / "below/sh", 0o4755)
        (place / "below").chmod(mode)
        shell(place / "sh", 0o4755)
        async with watched(paths, check(place)) as report:
            await report.until(lambda: report.open == [name(place / "sh")])
            assert f"1 folders could not be read: {place}/below" in report.notes["unread"]

    in_own_mounts(lambda: asyncio.run(look()), without=[CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH])


def test_a_scan_survives_folders_that_come_and_go(tmp_path):
    for number in range(50):
        shell(tmp_path / f"steady{number}" / "sh", 0o4755)
    end = threading.Event()

    def trouble() -> None:
        while not end.is_set():
            for number in range(20):
                (tmp_path / f"come{number}" / "and" / "go").mkdir(parents=True, exist_ok=True)
            for number in range(20):
                shutil.rmtree(tmp_path / f"come{number}")

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        for _ in range(3):
            found, summary = asyncio.run(scan(tmp_path))
            assert len(found) == 50
            assert summary.problems == ()
    finally:
        end.set()
        thread.join()


async def scan(folder: Path, exclude: str = ""):
    return await Scanner().setuid([str(folder)], [], exclude, SUID | SGID, capabilities=True)


def test_a_scan_leaves_out_what_is_excluded(tmp_path):
    for path in ("a/sh", "b/sh", "b/c/sh", "d/e"):
        shell(tmp_path / path, 0o4755)
    exclude = exclusion([Glob(f"{tmp_path}/b/*"), Glob(f"{tmp_path}/**/e")])
    found, _ = asyncio.run(scan(tmp_path, exclude))
    assert [one.path for one in found] == [f"{tmp_path}/a/sh"]


@needs_root
def test_many_at_once_share_a_summary(paths, place):
    async def scenario():
        async with watched(paths, check(place, SETUID_MAX_ALERTS="5")) as report:
            spare = place.parent / "spare"
            for number in range(60):
                shell(spare / f"sh{number}", 0o4755)
            spare.rename(place / "below" / "many")
            await report.until(lambda: "Many unexpected set-uid executables" in report.open)
            assert len(report.alerts) == 6
            assert (
                "55 more findings" in report.last("Many unexpected set-uid executables").details.description
            )
            shutil.rmtree(place / "below")
            await report.until(lambda: not report.open)

    asyncio.run(scenario())


@needs_root
@pytest.mark.parametrize(("bits", "expected"), [("suid", 0), ("sgid", 1), ("caps", 2), ("suid sgid caps", 3)])
def test_what_counts_is_chosen_by_its_bits(paths, place, bits, expected):
    async def scenario():
        async with watched(paths, check(place, SETUID_BITS=bits)) as report:
            made = [shell(place / "suid", 0o4755), shell(place / "sgid", 0o2755), shell(place / "caps")]
            subprocess.run(["setcap", "cap_net_raw+ep", made[2]], check=True)
            last = shell(place / "last", 0o6755)
            subprocess.run(["setcap", "cap_net_raw+ep", last], check=True)
            last.chmod(0o6755)
            wanted = made if expected == 3 else [made[expected]]
            await report.until(lambda: sorted(report.open) == sorted(name(path) for path in [*wanted, last]))

    asyncio.run(scenario())


@needs_root
def test_what_comes_in_bursts_is_bounded_too(paths, place, monkeypatch):
    """Anybody may make files of his own set-uid, as many as he likes. Too many are counted by a scan."""
    monkeypatch.setattr(setuid, "MAX_FOUND", 25)
    monkeypatch.setattr(setuid, "_RESCAN_S", 0.2)
    many, burst = "Many unexpected set-uid executables", 10

    async def scenario():
        async with watched(paths, check(place, SETUID_MAX_ALERTS="5")) as report:

            def told() -> int:
                summaries = (alert for alert in report.alerts if alert.name == many)
                return 5 + sum(int(alert.details.description.split()[0]) for alert in summaries)

            for number in range(3):
                for part in range(burst):
                    shell(place / f"{number}-{part}", 0o4755)
                if number < 2:
                    await report.until(lambda: told() == (number + 1) * burst)  # noqa: B023
            await report.until(lambda: "of 30 set-uid executables only" in report.notes.get("many", ""))
            shutil.rmtree(place)
            await report.until(lambda: not report.open)

    asyncio.run(scenario())


@needs_root
def test_lost_events_are_no_loss(paths, place, monkeypatch):
    """fanotify(7): when its queue is full the kernel drops events, and says so. A scan finds all."""
    limit = Path("/proc/sys/fs/fanotify/max_queued_events")
    most = int(limit.read_text()) if limit.exists() else 16_384
    monkeypatch.setattr(setuid, "_RESCAN_S", 0.2)

    async def scenario():
        async with watched(paths, check(place)) as report:
            assert report.notes["events"] == ""
            for number in range(most + 10):  # before the loop has its turn
                (place / "below" / str(number)).touch()
            late = shell(place / "late", 0o4755)
            await report.until(lambda: report.open == [name(late)])

    asyncio.run(scenario())


def test_without_a_list_the_check_is_unknown_and_recovers(paths, place):
    async def scenario():
        async with watched(paths, check(place, SETUID_ALLOW=""), knows=False) as report:
            assert report.reason == "no baseline: run monitorctl baseline learn setuid system"
            learn(paths, ["/none"])
            await report.until(lambda: report.reason == "")

    asyncio.run(scenario())


def test_a_restart_keeps_what_was_found_until_the_scan_is_over(paths, place):
    async def scenario():
        shell(place / "sh", 0o4755)
        report = JudgingReport()
        async with watched(paths, check(place), report):
            await report.until(lambda: report.open)
        async with watched(paths, check(place), report):
            await asyncio.sleep(0.5)
        assert [alert.level for alert in report.alerts] == [CRITICAL]

    asyncio.run(scenario())


def test_patterns_are_not_about_one_file():
    """A new one takes the place of none, and each file is compared with all of them."""
    assert [SetuidCheck.subject(SetuidCheck.entry([path])) for path in ("/opt/*", "/bin/su")] == [
        "",
        "/bin/su",
    ]
