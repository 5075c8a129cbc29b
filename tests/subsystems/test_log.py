"""The log subsystem, on real files and a real command."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CheckId, Line, Observation, Subject
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import log as module
from mender_monitor_py.subsystems import template
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.log import LogCheck
from tests.fakes.reports import KeptReport


def check(values: Mapping[str, str], settings: Settings | None = None) -> LogCheck:
    return LogCheck(Definition(CheckId("log", "x"), values), settings or Settings())


def watch(
    check: LogCheck,
    tmp_path: Path,
    work: Callable[[KeptReport], Awaitable[None]],
    report: KeptReport | None = None,
) -> KeptReport:
    """Run *check* while *work* is done, and end it."""
    kept = report or KeptReport()

    async def main() -> None:
        host = Host(Paths(tmp_path), Clock())
        task = asyncio.create_task(check.run(host, kept))
        try:
            await work(kept)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await host.aclose()

    asyncio.run(main())
    return kept


async def seen(report: KeptReport, count: int = 1) -> Observation:
    await report.until(lambda: len(report.observed) >= count)
    assert len(report.observed) == count
    return report.observed[-1]


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def test_a_match_as_the_original_tells_it(tmp_path: Path, log: Path) -> None:
    """Name, subject, description, the line and those around it, with their numbers."""
    log.write_text("".join(f"line {number}\n" for number in range(1, 41)) + "an ERROR here\nafter\n")

    async def work(report: KeptReport) -> None:
        found = await seen(report)
        assert found.level == "CRITICAL"
        assert found.event
        assert found.name == "Log file contains ERROR.*"
        assert found.subject == Subject("log_x", "log", "LOGCONTAINS")
        assert found.details.description == f"ERROR.* present in {log}"
        assert found.details.line_matching == Line(41, "an ERROR here")
        assert len(found.details.lines_before) == 30
        assert found.details.lines_before[-1] == Line(40, "line 40")
        assert found.details.lines_after == (Line(42, "after"),)

    report = watch(check({"LOG_PATTERN": "ERROR.*", "LOG_FILE": str(log)}), tmp_path, work)
    assert json.loads(report.memory)["path"] == str(log)


def test_the_first_of_two_matches_in_one_read(tmp_path: Path, log: Path) -> None:
    """It is the matching line; the second is in the lines after it. The settings bound both sides."""
    log.write_text("a\nERROR 1\nERROR 2\nb\n")
    settings = Settings(default_log_lines_before=0, default_log_lines_after=1)

    async def work(report: KeptReport) -> None:
        found = await seen(report)
        assert found.details.line_matching == Line(2, "ERROR 1")
        assert found.details.lines_before == ()
        assert found.details.lines_after == (Line(3, "ERROR 2"),)

    watch(check({"LOG_PATTERN": "ERROR", "LOG_FILE": str(log)}, settings), tmp_path, work)


def test_further_matches_only_renew(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many matches while the alert is on are told now and then, the last one at the end at the latest."""
    monkeypatch.setattr(module, "_RENEWAL_S", 3600.0)
    watched = check({"LOG_PATTERN": "ERROR", "LOG_FILE": str(log)})

    async def work(report: KeptReport) -> None:
        for number in range(100):
            append(log, f"ERROR {number}\n")
            await asyncio.sleep(0.001)
        await report.until(lambda: len(report.observed) >= 2)

    report = watch(watched, tmp_path, work)
    assert len(report.observed) == 3
    assert not any(found.details.lines_before for found in report.observed[1:])


def test_it_goes_on_after_a_restart(tmp_path: Path, log: Path) -> None:
    """What was judged is not judged again; what was written meanwhile is."""
    log.write_text("ERROR 1\n")
    values = {"LOG_PATTERN": "ERROR", "LOG_FILE": str(log)}

    async def first(report: KeptReport) -> None:
        await seen(report)

    memory = watch(check(values), tmp_path, first).memory
    report = KeptReport()
    report.memory = memory
    append(log, "fine\nERROR 2\n")

    async def second(report: KeptReport) -> None:
        assert (await seen(report)).details.line_matching == Line(3, "ERROR 2")

    watch(check(values), tmp_path, second, report)


class ClosingReport(KeptReport):
    """Takes no news, as the recorder does while the daemon ends."""

    def observe(self, observation: Observation, memory: str | None = None) -> None:
        super().observe(observation, None)


def test_a_match_at_the_very_end_is_not_lost(tmp_path: Path, log: Path) -> None:
    """When its alert is not taken any more, the position stays before it, for the next start."""
    log.write_text("ERROR\n")

    async def work(report: KeptReport) -> None:
        await seen(report)

    assert (
        watch(check({"LOG_PATTERN": "ERROR", "LOG_FILE": str(log)}), tmp_path, work, ClosingReport()).memory
        == ""
    )


def test_what_subsystems_built_on_it_set(tmp_path: Path, log: Path) -> None:
    """Level, name, text with the line in it, status and type are the check's; odd bytes are escaped."""
    values = {
        "LOG_PATTERN": "kill",
        "LOG_FILE": str(log),
        "LOG_ALERT_LEVEL": "warning",
        "LOG_ALERT_DESCRIPTION": "Container killed",
        "LOG_ALERT_DETAILS": "Alert was raised due to:%line_matching",
        "LOG_ALERT_STATUS": "DOCKEREVENTS_CONTAINER_EVENT",
        "LOG_ALERT_TYPE": "docker_event",
    }

    async def work(report: KeptReport) -> None:
        await report.until(lambda: report.states)
        assert report.states == ["known"]
        log.write_bytes(b"kill\x00\xff\n")
        found = await seen(report)
        assert found.level == "WARNING"
        assert found.name == "Container killed"
        assert found.details.description == r"Alert was raised due to:kill\x00\xff"
        assert found.subject == Subject("log_x", "docker_event", "DOCKEREVENTS_CONTAINER_EVENT")

    watch(check(values), tmp_path, work)


def test_a_command(tmp_path: Path) -> None:
    """Its output is the log."""
    command = f"echo one; echo PID changed; exec sleep 60 #{tmp_path}"

    async def work(report: KeptReport) -> None:
        found = await seen(report)
        assert found.details.description == f"PID changed present in @{command}"
        assert found.details.line_matching == Line(2, "PID changed")
        assert found.details.lines_before == (Line(1, "one"),)

    watch(check({"LOG_PATTERN": "PID changed", "LOG_FILE": f"@{command}"}), tmp_path, work)


def test_a_folder_is_told_as_unknown(tmp_path: Path, log: Path) -> None:
    """A path that cannot be read is said so, and read once it can be."""
    log.mkdir()

    async def work(report: KeptReport) -> None:
        await report.until(lambda: report.states)
        assert report.states == [f"{log} is not a regular file"]
        log.rmdir()
        log.write_text("ERROR\n")
        await seen(report)

    watch(check({"LOG_PATTERN": "ERROR", "LOG_FILE": str(log)}), tmp_path, work)


def test_a_costly_line_is_warned_of_once(tmp_path: Path, log: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is passed over, and the next lines are judged."""
    log.write_text("a" * 60 + "!\n" + "a" * 61 + "!\n")

    async def work(report: KeptReport) -> None:
        await report.until(lambda: caplog.records)
        append(log, "aaa\n")
        assert (await seen(report)).details.line_matching == Line(3, "aaa")

    with caplog.at_level(logging.WARNING):
        watch(check({"LOG_PATTERN": "^(a+)+$", "LOG_FILE": str(log)}), tmp_path, work)
    assert [record.getMessage() for record in caplog.records] == [
        "log x: 2 lines were passed over, too costly for the pattern"
    ]


@pytest.mark.parametrize(
    ("text", "default", "expires"),
    [("", 0, None), ("", 60, 60), ("2d", 60, 172_800), ("0", 60, None), ("16", 0, 16)],
)
def test_expiration(text: str, default: float, expires: float | None) -> None:
    """The check's own, else that of the settings; 0 is never."""
    values = {"LOG_PATTERN": "x", "LOG_FILE": "/x", "LOG_PATTERN_EXPIRATION": text}
    settings = Settings(default_log_pattern_expiration_seconds=default)
    assert check(values, settings).expires_after == expires


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("LOG_PATTERN", "(a", r"file.sh:7: LOG_PATTERN: missing closing parenthesis \(at character 3\)"),
        ("LOG_PATTERN", "", "LOG_PATTERN: is missing or empty"),
        ("LOG_FILE", "relative.log", "LOG_FILE: .*neither an absolute path nor @"),
        ("LOG_FILE", "@ ", "LOG_FILE: "),
        ("LOG_PATTERN_EXPIRATION", "soon", "LOG_PATTERN_EXPIRATION: .*seconds"),
        ("LOG_ALERT_LEVEL", "OK", "LOG_ALERT_LEVEL: "),
    ],
)
def test_refused(key: str, value: str, reason: str) -> None:
    """What cannot be watched is refused, with the place and the reason."""
    values = {"LOG_PATTERN": "x", "LOG_FILE": "/x", key: value}
    definition = Definition(CheckId("log", "x"), values, "file.sh", {"LOG_PATTERN": 7})
    with pytest.raises(DefinitionError, match=reason):
        LogCheck(definition, Settings())


def test_dockerevents() -> None:
    """The log check that the original makes of ``create dockerevents scanner_kill scanner kill 16``."""
    found = template("dockerevents")
    assert found is not None
    assert (found.subsystem, found.arguments, found.optional) == (
        "log",
        ("CONTAINER", "ACTION"),
        ("EXPIRATION",),
    )
    values = found.expand("scanner_kill", ("scanner", "kill", "16"))
    assert values == {
        "SERVICE_NAME": "scanner_kill",
        "LOG_PATTERN": ".*container kill.*name=scanner.*",
        "LOG_FILE": "@docker events",
        "LOG_PATTERN_EXPIRATION": "16",
        "LOG_ALERT_DESCRIPTION": "Docker container scanner kill",
        "LOG_ALERT_DETAILS": "Alert was raised due to:%line_matching",
        "LOG_ALERT_STATUS": "DOCKEREVENTS_CONTAINER_EVENT",
        "LOG_ALERT_TYPE": "docker_event",
    }
    assert check(values).expires_after == 16
    assert "LOG_PATTERN_EXPIRATION" not in found.expand("n", ("c", "die"))
