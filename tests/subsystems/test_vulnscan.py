"""The check of a vulnerability scanner: what it tells from scan to scan, and when it scans."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host import vulnscans
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.vulnscans import Result
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.vulnscan import FAILED, VulnscanCheck
from mender_monitor_py.subsystems.vulnscanmemory import Memory
from mender_monitor_py.vulnerability import Vulnerability
from tests.fakes.judging import SOON, JudgingReport
from tests.fakes.receiver import SOURCE
from tests.fakes.update_files import UpdateFiles
from tests.fakes.watched import elapse, watched
from tests.flow.test_ctl import Device

CHECK = CheckId("vulnscan", "x")


class Scanner:
    """A scanner that prints what a file holds, and counts how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self._file, self._asked = folder / "findings", folder / "asked"
        self.command = f"echo . >>{self._asked}; . {self._file}"
        self.finds()

    def finds(self, *findings: str) -> None:
        lines = "".join(f"{finding}\n" for finding in findings)
        self.does(f"printf %s {shlex.quote(lines)}")

    def does(self, script: str) -> None:
        self._file.write_text(script)

    @property
    def asked(self) -> int:
        return self._asked.read_text().count(".") if self._asked.exists() else 0


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path)


def check(scanner: Scanner, **values: str) -> VulnscanCheck:
    given = {
        "VULNSCAN_COMMAND": scanner.command,
        "VULNSCAN_FORMAT": "lines",
        "VULNSCAN_PATTERN": r"(?<severity>\w+) (?<id>\S+) (?<package>\S+) (?<version>\S+)",
        "VULNSCAN_SPLAY": "0",
        **values,
    }
    return VulnscanCheck(Definition(CHECK, given), Settings())


def overdue(memory: str) -> str:
    """*memory* with the last scan longer ago."""
    found = Memory.read(memory, Clock().now())
    if found.last is not None:
        found.last = replace(found.last, boottime=found.last.boottime - 1e6, wall=found.last.wall - 1e6)
    return found.text()


@asynccontextmanager
async def one_scan(paths: Any, made: VulnscanCheck, report: JudgingReport) -> AsyncIterator[JudgingReport]:
    """*made* from when it was due to when it has scanned once more."""
    report.memory = overdue(report.memory)
    stored = report.memory
    async with watched(paths, made, report, knows=False):
        await report.until(lambda: report.memory != stored)
        yield report


async def scan(paths: Any, made: VulnscanCheck, report: JudgingReport) -> list[tuple[str, str]]:
    """The alerts of one more scan."""
    count = len(report.alerts)
    async with one_scan(paths, made, report):
        return [(alert.level, alert.name) for alert in report.alerts[count:]]


def run(scenario: Any) -> None:
    asyncio.run(scenario())


OPENSSL, ZLIB = "Vulnerability CVE-2024-1111 in openssl 3.0", "Vulnerability CVE-2024-2222 in zlib 1.2"


def test_new_findings_alert_and_those_that_are_gone_clear(paths, scanner) -> None:
    """
    Over restarts: each scan here is one of another run of the check.
    """

    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner)
        assert await scan(paths, made, report) == []
        scanner.finds("high CVE-2024-1111 openssl 3.0", "low CVE-2024-9999 bash 5")
        assert await scan(paths, made, report) == [(CRITICAL, OPENSSL)]
        alert = report.alerts[-1]
        assert (alert.subject.name, alert.subject.status) == ("CVE-2024-1111 openssl", "high")
        assert alert.details.description.splitlines() == [
            "CVE-2024-1111 in openssl 3.0",
            "severity: high",
            "fixed in: no version that the scanner knows of",
            "link: https://nvd.nist.gov/vuln/detail/CVE-2024-1111",
            "scanner: x",
        ]
        scanner.finds("high CVE-2024-1111 openssl 3.0", "critical CVE-2024-2222 zlib 1.2")
        assert await scan(paths, made, report) == [(CRITICAL, ZLIB)]
        scanner.finds("critical CVE-2024-2222 zlib 1.2")
        assert await scan(paths, made, report) == [(OK, OPENSSL)]
        ignoring = check(scanner, VULNSCAN_IGNORE="CVE-2024-2222@zlib")
        assert await scan(paths, ignoring, report) == [(OK, ZLIB)]
        assert report.open == []

    run(scenario)


def test_a_package_that_was_upgraded_and_is_still_vulnerable(paths, scanner) -> None:
    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner)
        scanner.finds("high CVE-2024-1111 openssl 3.0")
        await scan(paths, made, report)
        scanner.finds("high CVE-2024-1111 openssl 3.1")
        now = "Vulnerability CVE-2024-1111 in openssl 3.1"
        assert await scan(paths, made, report) == [(OK, OPENSSL), (CRITICAL, now)]
        assert await scan(paths, made, report) == []

    run(scenario)


def test_many_at_once_share_an_alert_and_later_ones_are_told_after_a_restart_too(paths, scanner) -> None:
    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner, VULNSCAN_MAX_ALERTS="2")
        many = [f"high CVE-2024-{number} package{number} 1" for number in range(1000, 1300)]
        scanner.finds(*many)
        told = await scan(paths, made, report)
        assert len(told) == 3
        assert told[-1] == (CRITICAL, "Many vulnerabilities")
        assert "298 more findings at once" in report.alerts[-1].details.description
        scanner.finds(*many, "high CVE-2024-1111 openssl 3.0")
        assert await scan(paths, made, report) == [(CRITICAL, OPENSSL)]
        scanner.finds("high CVE-2024-1111 openssl 3.0")
        assert sorted(level for level, _ in await scan(paths, made, report)) == [OK] * 3
        assert report.open == [OPENSSL]

    run(scenario)


@pytest.mark.parametrize("trouble", ["exit 3", "echo nonsense; kill -9 $$", "/nowhere/scanner"])
def test_a_scan_that_fails_clears_nothing_and_is_an_alert_the_second_time(paths, scanner, trouble) -> None:
    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner)
        scanner.finds("high CVE-2024-1111 openssl 3.0")
        await scan(paths, made, report)
        scanner.does(f"echo the disk is full >&2; {trouble}")
        assert await scan(paths, made, report) == []
        assert report.reason.startswith("the scan failed: the scanner ")
        assert await scan(paths, made, report) == [(CRITICAL, "Vulnerability scan x failed")]
        assert "2 times in a row" in report.alerts[-1].details.description
        assert "the disk is full" in report.alerts[-1].details.description
        assert await scan(paths, made, report) == []
        scanner.finds("high CVE-2024-1111 openssl 3.0")
        assert await scan(paths, made, report) == [(OK, "Vulnerability scan x failed")]
        assert (report.open, report.reason, report.is_bad(FAILED)) == ([OPENSSL], "", False)

    run(scenario)


def test_a_scan_that_was_made_is_not_made_again_at_a_restart(paths, scanner) -> None:
    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner)
        await scan(paths, made, report)
        async with watched(paths, made, report):
            await report.until(lambda: "the next scan is at" in report.notes.get("next", ""))
        assert scanner.asked == 1

    run(scenario)


def test_a_device_that_was_off_catches_up_once(paths, scanner) -> None:
    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner, VULNSCAN_SCHEDULE="03:00")
        await scan(paths, made, report)
        async with one_scan(paths, made, report):
            await report.until(lambda: "the next scan is at" in report.notes.get("next", ""))
        assert scanner.asked == 2

    run(scenario)


def test_a_check_file_that_was_changed_is_a_reason_to_scan(paths, scanner) -> None:
    async def scenario() -> None:
        report = JudgingReport()
        await scan(paths, check(scanner), report)
        async with watched(paths, check(scanner, VULNSCAN_SEVERITY="low"), report):
            await report.until(lambda: scanner.asked == 2)

    run(scenario)


def test_what_is_ignored_until_a_day_is_looked_for_after_it(paths, scanner) -> None:
    async def scenario() -> None:
        report = JudgingReport()
        scanner.finds("high CVE-2024-1111 openssl 3.0")
        today, yesterday = date.today(), date.today() - timedelta(days=1)
        made = check(scanner, VULNSCAN_IGNORE=f"CVE-2024-1111 until={today}")
        assert await scan(paths, made, report) == []
        # The entry is the one that passed this midnight; the last scan was before that.
        passed = check(scanner, VULNSCAN_IGNORE=f"CVE-2024-1111 until={yesterday}")
        now = Clock().now()
        before = replace(now, boottime=now.boottime - 86_000, wall=now.wall - 86_000)
        report.memory = replace(Memory.read(report.memory, now), last=before, told=passed.told).text()
        async with watched(paths, passed, report):
            await report.until(lambda: report.alerts)
        assert report.open == [OPENSSL]
        assert f"CVE-2024-1111 (until {yesterday})" in report.notes["ignored"]

    run(scenario)


@pytest.mark.parametrize("artifact", ["", "release-2"])
def test_a_deployment_that_was_committed_is_a_reason_to_scan(paths, scanner, artifact) -> None:
    client = UpdateFiles(paths.mender, "cpp")

    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner)
        await scan(paths, made, report)
        host = Host(paths, Clock())
        task = asyncio.create_task(made.run(host, report))
        try:
            client.begin("d1")
            await report.until(lambda: "the next scan" in report.notes.get("next", ""))
            async with asyncio.timeout(30):
                while host.updates.current is None:
                    await asyncio.sleep(0.01)
            assert scanner.asked == 1
            client.end(success=True, artifact=artifact)
            await report.until(lambda: scanner.asked == 2 and "the next scan" in report.notes["next"])
        finally:
            task.cancel()
            await asyncio.wait([task])
            await host.aclose()
        # One that came to its end while nobody watched.
        client.begin("d2", "release-3")
        client.end(success=True, artifact="release-3")
        async with watched(paths, made, report):
            await report.until(lambda: scanner.asked == 3 and "the next scan" in report.notes["next"])

    run(scenario)


def test_a_deployment_that_is_committed_while_a_scan_runs_asks_for_another(paths, scanner, tmp_path) -> None:
    client = UpdateFiles(paths.mender, "cpp")
    gate = tmp_path / "gate"

    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner)
        await scan(paths, made, report)
        scanner.does(f"until [ -e {gate} ]; do sleep 0.05; done")
        report.memory = overdue(report.memory)
        async with watched(paths, made, report):
            await report.until(lambda: report.notes.get("next") == "a scan runs now")
            async with asyncio.timeout(SOON):
                while scanner.asked < 2:
                    await asyncio.sleep(0.02)
                client.installed("release-2")
                await elapse(0.2)  # the kernel tells of it
            gate.touch()
            await report.until(lambda: scanner.asked == 3 and "the next scan is at" in report.notes["next"])

    run(scenario)


def test_a_device_that_is_never_on_for_long_gets_to_its_first_scan(paths, scanner) -> None:
    async def scenario() -> None:
        report = JudgingReport()
        made = check(scanner, VULNSCAN_SPLAY="5000d")
        async with watched(paths, made, report, knows=False):
            await report.until(lambda: report.notes.get("next"))
        first = Memory.read(report.memory, Clock().now()).first
        async with watched(paths, made, report, knows=False):
            await report.until(lambda: "the next scan is at" in report.notes["next"])
        assert Memory.read(report.memory, Clock().now()).first == first

    run(scenario)


def test_the_splay_is_steady_for_a_device_and_a_check(paths, scanner) -> None:
    async def first() -> str:
        report = JudgingReport()
        async with watched(paths, check(scanner, VULNSCAN_SPLAY="5000d"), report, knows=False):
            await report.until(lambda: report.notes.get("next"))
        return report.notes["next"].rpartition(" ")[0]  # the day

    async def scenario() -> None:
        assert await first() == await first()
        assert scanner.asked == 0

    run(scenario)


def test_a_result_that_is_handed_in_counts_as_a_scan(paths, scanner) -> None:
    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner, VULNSCAN_SPLAY="10h")
        found = (Vulnerability("CVE-2024-1111", "openssl", "3.0", "high"),)
        async with watched(paths, made, report, knows=False):
            path = vulnscans.hand_in(paths, CHECK, Result(found=found, total=1))
            await report.until(lambda: report.open == [OPENSSL])
            assert not path.exists()
        async with watched(paths, made, report):
            path.write_text("{}")
            path.rename(path.with_name("other"))
            vulnscans.hand_in(paths, CHECK, Result())
            await report.until(lambda: not report.open)
        assert scanner.asked == 0

    run(scenario)


def test_more_findings_than_are_looked_at_clear_nothing(paths, scanner) -> None:
    async def scenario() -> None:
        report, made = JudgingReport(), check(scanner, VULNSCAN_SPLAY="10h")
        found = (Vulnerability("CVE-2024-1111", "openssl", "3.0", "high"),)
        other = (Vulnerability("CVE-2024-2222", "zlib", "1.2", "high"),)
        async with watched(paths, made, report, knows=False):
            vulnscans.hand_in(paths, CHECK, Result(found=found, total=1))
            await report.until(lambda: report.open == [OPENSSL])
            vulnscans.hand_in(paths, CHECK, Result(found=other, total=5000))
            await report.until(lambda: report.open == [OPENSSL, ZLIB])
            assert "of 5000 findings only the 1 gravest" in report.notes["many"]

    run(scenario)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"VULNSCAN_FORMAT": "xml"}, "VULNSCAN_FORMAT: 'xml' is not one of"),
        ({"VULNSCAN_PATTERN": ""}, "VULNSCAN_PATTERN: is missing"),
        ({"VULNSCAN_PATTERN": "("}, "VULNSCAN_PATTERN: '(' is no regular expression"),
        ({"VULNSCAN_SCHEDULE": "nightly"}, "VULNSCAN_SCHEDULE: 'nightly' is no calendar expression"),
        ({"VULNSCAN_SCHEDULE": "5"}, "VULNSCAN_SCHEDULE: '5' is less than a minute"),
        ({"VULNSCAN_IGNORE": "until=2026-01-01"}, "VULNSCAN_IGNORE: 'until=2026-01-01' has no entry"),
        ({"VULNSCAN_REPORT": "report"}, "VULNSCAN_REPORT: 'report' is not an absolute path"),
        ({"VULNSCAN_SEVERITY": "bad"}, "VULNSCAN_SEVERITY: 'bad' is not one of"),
        ({"VULNSCAN_COMMAND": ""}, "VULNSCAN_COMMAND: is missing"),
    ],
)
def test_what_cannot_be_is_said_with_its_variable(scanner, values, reason) -> None:
    with pytest.raises(DefinitionError) as error:
        check(scanner, **values)
    assert str(error.value).startswith(reason)


def test_memory_of_another_version_is_that_of_a_new_check() -> None:
    now = Clock().now()
    for text in ("", "{}", "[]", '{"first": {}, "last": null}', '{"first": 1}'):
        assert Memory.read(text, now) == Memory(now)
    kept = Memory(now, now, 1, {"a b": "1"}, ["a b"], "x", "release-1", "seed")
    assert Memory.read(kept.text(), now) == kept


def test_the_shipped_checks_can_be_used() -> None:
    for name in ("debsecan", "lynis"):
        file = Path(__file__).parents[2] / f"monitor-available/vulnscan_{name}.sh"
        script = '. "$0"; for name in ${!VULNSCAN_*}; do printf "%s\\0%s\\0" "$name" "${!name}"; done'
        said = subprocess.run(
            ["bash", "-c", script, file],
            capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        values = dict(zip(said[::2], said[1::2], strict=False))
        made = VulnscanCheck(Definition(CheckId("vulnscan", name), values), Settings())
        assert not isinstance(made.schedule, int)


# monitorctl scan


@pytest.fixture
def device(paths) -> Device:
    return Device(paths)


def create(device: Device, command: str, *more: str, kind: str = "debsecan") -> None:
    device.done("create", "vulnscan", "x", kind, command, *more)


def test_scan_prints_what_it_finds_and_its_status_tells(device) -> None:
    create(device, "echo 'CVE-2024-1111 openssl (high urgency)'; echo 'CVE-2024-2 zlib (low urgency)'")
    result = device.ctl("scan", "x")
    assert result.status == 1
    assert result.out.splitlines()[1].split() == ["high", "CVE-2024-1111", "openssl"]
    assert result.out.splitlines()[2].startswith("1 findings, 1 below the severity, 0 ignored")
    assert result.err == "No alerts come of this: the check is not enabled\n"
    create(device, "true")
    assert device.ctl("scan", "x").status == 0
    told = json.loads(device.ctl("scan", "--json", "x").out)
    assert (told["check"], told["total"], told["found"], told["told_daemon"]) == ("vulnscan x", 0, [], False)


def test_scan_tells_why_there_is_no_result(device) -> None:
    create(device, "echo 'no network' >&2; exit 1")
    result = device.ctl("scan", "x")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(
        "mender-monitorctl: vulnscan x: the scanner ended with status 1\n  no network\n"
    )
    failed = device.ctl("scan", "x", "--json")
    assert (failed.status, json.loads(failed.out)["failed"]) == (2, "the scanner ended with status 1")
    assert "vulnscan_y.sh" in device.refused("scan", "y", status=2)


def test_ctrl_c_ends_the_scan_with_its_scanner(device, tmp_path) -> None:
    pids = tmp_path / "pids"
    create(device, f"echo $$ >{pids}; setsid sleep 600")
    with subprocess.Popen(
        [sys.executable, "-c", "from mender_monitor_py.ctl import main; main()", "scan", "x"],
        cwd=SOURCE, env={**os.environ, "MENDER_MONITOR_ROOT": str(device.paths.root)},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        end = time.monotonic() + SOON
        while not (pids.exists() and pids.read_text()) and time.monotonic() < end:
            time.sleep(0.02)  # another process cannot be awaited
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    scanner = Path("/proc", pids.read_text().strip())
    while scanner.exists() and time.monotonic() < end:
        time.sleep(0.02)  # a process that is killed takes a moment to go
    assert not scanner.exists()


def test_scan_shows_on_a_terminal_that_it_is_at_work(device, tmp_path) -> None:
    create(device, f"until [ -e {tmp_path}/gate ]; do sleep 0.05; done")
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "from mender_monitor_py.ctl import main; main()", "scan", "x"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, cwd=SOURCE,
        env={**os.environ, "MENDER_MONITOR_ROOT": str(device.paths.root)},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = ""
        while not {"\r\x1b[K/", "\r\x1b[K-"} <= set(re.findall(r"\r\x1b\[K[-|/\\]", shown)):
            assert select.select([ours], [], [], SOON)[0], shown
            shown += os.read(ours, 65536).decode()
        (tmp_path / "gate").touch()
        with suppress(OSError):  # EIO: it has ended
            while text := os.read(ours, 65536):
                shown += text.decode()
        assert process.stdout is not None
        process.stdout.read()
    os.close(ours)
    assert re.search(r"vulnscan x runs for 0:\d\d, \d+ processes", shown)
