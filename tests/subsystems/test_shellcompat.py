"""A user's own shell subsystems, run by the real bash."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import sysvinit
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.shellcompat import ShellCheck
from tests.fakes.reports import KeptReport

REPOSITORY = Path(__file__).parents[2]
FIXTURES = REPOSITORY / "tests/fixtures/shell"
LIBRARY = """
. common/common.sh
. lib/monitor-lib.sh
. lib/alert-lib.sh
. lib/subsystem-storage-lib.sh
"""
SOON = 30.0


class Device:
    """A folder with the shell library, in which subsystems and checks are made and run."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.host = Host(paths, Clock())
        shutil.copytree(REPOSITORY / "scripts/shell-lib", paths.share)
        (paths.monitor_d / "available").mkdir(parents=True)

    def subsystem(self, name: str, script: str) -> None:
        (self.paths.monitor_d / f"{name}.sh").write_text(f"{LIBRARY}{script}\n")

    def check(self, subsystem: str, name: str = "one", text: str = "", *, limit: float = 60) -> ShellCheck:
        check = CheckId(subsystem, name)
        file = self.paths.monitor_d / "available" / check.file_name
        file.write_text(text)
        settings = Settings(shell_subsystem_interval=0.1, shell_subsystem_timeout=limit)
        return ShellCheck(Definition(check, file=str(file)), settings)

    @asynccontextmanager
    async def running(self, check: ShellCheck, *, refuses: bool = False) -> AsyncIterator[KeptReport]:
        report = KeptReport(refuses=refuses)
        task = asyncio.create_task(check.run(self.host, report))
        try:
            yield report
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def device(paths: Paths) -> Device:
    return Device(paths)


def run(device: Device, scenario: Callable[[], object]) -> None:
    async def whole() -> None:
        try:
            await asyncio.wait_for(scenario(), 2 * SOON)  # type: ignore[arg-type]
        finally:
            await device.host.aclose()

    asyncio.run(whole())


def test_a_script_has_what_the_contract_says(device: Device) -> None:
    """The check's variables (arrays too), env, SUBSYSTEM_NAME, the folder, its own name and no arguments."""
    device.subsystem(
        "place",
        """
        declare -A map=([key]=value)  # of the top level, not of a function
        seen() { monitor_send_alert OK seen "$*" s st t; }
        seen "$PLACE_A|${PLACE_LIST[1]}|$(printenv PLACE_A)|$SUBSYSTEM_NAME|$env|$PWD|$0|$#|${map[key]}"
        """,
    )
    check = device.check("place", text="PLACE_A=\"a  b\"\nPLACE_LIST=(x 'y z')\n")

    async def scenario() -> None:
        async with device.running(check) as report:
            await report.until(lambda: report.told)
            file = device.paths.monitor_d / "available/place_one.sh"
            script = device.paths.monitor_d / "place.sh"
            assert report.told[0].details.description.split("|") == [
                "a  b",
                "y z",
                "a  b",
                "place",
                str(file),
                str(device.paths.share),
                str(script),
                "0",
                "value",
            ]

    run(device, scenario)


def test_a_subsystem_after_the_documentation_works_as_it_stands(device: Device, tmp_path: Path) -> None:
    """One CRITICAL above the threshold, one OK below it; it remembers which over a restart of everything."""
    (device.paths.monitor_d / "diskspace.sh").write_text((FIXTURES / "diskspace.sh").read_text())
    low, high = (f'DISKSPACE_NAME="/"\nDISKSPACE_THRESHOLD={percent}\n' for percent in (-1, 100))

    async def scenario() -> None:
        async with device.running(device.check("diskspace", "root_space", low)) as report:
            await report.until(lambda: report.told and report.states)  # it has noted what it told
        async with device.running(device.check("diskspace", "root_space", low)) as report:
            await report.until(lambda: report.states)
            await asyncio.sleep(0.5)  # some more runs, which have nothing to tell
            assert report.told == []
        async with device.running(device.check("diskspace", "root_space", high)) as report:
            await report.until(lambda: report.told)
            assert [(seen.level, seen.subject.status) for seen in report.told] == [(OK, "DISKSPACE_WARNING")]
            assert report.told[0].name == "The disk '/' is more than 100% full"

    run(device, scenario)


def test_an_alert_is_sent_each_time_it_is_asked_for(device: Device) -> None:
    """The script decides: the same alert at each run arrives each time, and a first OK too."""
    device.subsystem("each", 'monitor_send_alert "$LEVEL" "a name" details subject status type')

    async def scenario() -> None:
        async with (
            device.running(device.check("each", "one", "LEVEL=critical")) as bad,
            device.running(device.check("each", "two", "LEVEL=OK")) as good,
        ):
            await bad.until(lambda: len(bad.told) >= 3)
            await good.until(lambda: len(good.told) >= 2)
            assert {seen.level for seen in bad.told} == {CRITICAL}
            assert {seen.level for seen in good.told} == {OK}
            assert len({seen.key for seen in bad.told}) == 1

    run(device, scenario)


def test_an_alert_that_cannot_be_stored_fails_in_the_script(device: Device) -> None:
    """monitor_send_alert tells the script, which can try again at its next run."""
    device.subsystem("full", 'monitor_send_alert OK a b c d e || echo failed >"$RESULT"')
    result = device.paths.root / "result"

    async def scenario() -> None:
        async with device.running(device.check("full", text=f"RESULT={result}"), refuses=True):
            await until(lambda: result.exists() and result.read_text() == "failed\n")

    run(device, scenario)


@pytest.mark.parametrize(
    "script",
    [
        "exit 7",
        "set -e; false",
        "set -u; echo $NOT_SET",
        "if then fi (",
        "kill -KILL $BASHPID",
        "exec true",
        "trap '' TERM; sleep 1000 & disown; exit",
        "set -o noclobber -o posix; IFS=x; unset PATH; cd /",
        "exec 1>&- 2>&- 3>&-; false",
        "yes",
        "while :; do :; done",
        "trap '' TERM INT HUP; while :; do sleep 1000; done",
        "_mm_pid=(1 2 3); unset -f _mm_tell; _mender_monitor_queue() { exit 1; }; ulimit -n 3",
        ". /nowhere/nothing",
        "sleep 1000 & sleep 1000 & wait",
        "head -c 100000 /dev/urandom; head -c 100000 /dev/zero",
        "kill -TERM 0",
    ],
)
def test_whatever_a_script_does_the_others_go_on(device: Device, script: str) -> None:
    """A hostile check takes nothing from another one, whose runs and alerts go on, in time."""
    device.subsystem("hostile", script)
    device.subsystem("good", "monitor_send_alert OK good d s st t")

    async def scenario() -> None:
        async with (
            device.running(device.check("hostile", limit=0.5)) as hostile,
            device.running(device.check("good")) as good,
        ):
            await hostile.until(lambda: hostile.states)
            before = len(good.told)
            await good.until(lambda: len(good.told) >= before + 5)
        await until(lambda: not processes_of(device))

    run(device, scenario)


def test_a_run_that_takes_too_long_is_ended_and_told(device: Device) -> None:
    """The state is unknown, with the reason, until a run ends in time again."""
    slow = device.paths.root / "slow"
    slow.touch()
    device.subsystem("slow", '[[ -e $SLOW ]] && { trap "" TERM; sleep 1000 & sleep 1000; }')

    async def scenario() -> None:
        async with device.running(device.check("slow", text=f"SLOW={slow}", limit=0.5)) as report:
            await report.until(lambda: report.states)
            slow.unlink()
            await report.until(lambda: report.states[-1] == "known")
            assert all("was ended" in state for state in report.states[:-1])

    run(device, scenario)


def test_no_variable_leaks_into_another_check(device: Device) -> None:
    """Not from run to run, nor from check to check."""
    device.subsystem(
        "leak", 'monitor_send_alert OK "$LEAK|${SEEN:-no}|$(type -t ours)" d s st t; SEEN=yes; ours() { :; }'
    )

    async def scenario() -> None:
        async with (
            device.running(device.check("leak", "one", "LEAK=a")) as one,
            device.running(device.check("leak", "two", "")) as two,
        ):
            await one.until(lambda: len(one.told) >= 3)
            await two.until(lambda: len(two.told) >= 3)
            assert {seen.name for seen in one.told} == {"a|no|"}
            assert {seen.name for seen in two.told} == {"|no|"}

    run(device, scenario)


def test_runs_of_a_check_never_overlap(device: Device) -> None:
    """A slow run delays the next one of its own check."""
    device.subsystem(
        "alone",
        """
        mkdir "$LOCK" || monitor_send_alert CRITICAL overlap d s st t
        sleep 0.3; rmdir "$LOCK"; monitor_send_alert OK done d s st t
        """,
    )
    check = device.check("alone", text=f"LOCK={device.paths.root}/lock")

    async def scenario() -> None:
        async with device.running(check) as report:
            await report.until(lambda: len(report.told) >= 3)
            assert {seen.name for seen in report.told} == {"done"}

    run(device, scenario)


def test_arguments_are_data(device: Device) -> None:
    """Quotes, newlines, substitutions, 200 KB of lines and bytes that are no text arrive as they are."""
    device.subsystem(
        "data",
        r"""
        lines=$(seq 40000)
        monitor_send_alert OK $'a "b" \'c\' $(id) `id`\n\\' $'\xff\x01é' s st t 'p' '/f' "$lines" "" $'x\n\ny'
        """,
    )

    async def scenario() -> None:
        async with device.running(device.check("data")) as report:
            await report.until(lambda: report.told)
            seen = report.told[0]
            assert seen.name == "a \"b\" 'c' $(id) `id`\n\\"
            assert seen.details.description == "\udcff\x01é (p in /f)"
            lines = [*seen.details.lines_before, seen.details.line_matching, *seen.details.lines_after]
            assert [line.data for line in lines if line] == [*map(str, range(1, 40001)), "", "x", "", "y"]
            assert [line.number for line in lines if line] == list(range(1, 40005))

    run(device, scenario)


def test_what_scripts_print_is_logged_at_its_level(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    """Log functions at their level each time; what else a script prints once, escaped, within bounds."""
    device.subsystem(
        "talk",
        r"""
        log_warn "take care" "$(date +%N)"; log_debug hidden; echo plain; printf 'bell\a\n' >&2
        seq 1000; monitor_send_alert OK done d s st t
        """,
    )
    caplog.set_level(logging.DEBUG)

    def said() -> list[tuple[int, str]]:
        name = "mender_monitor_py.subsystems.shellcompat"
        return [(r.levelno, r.getMessage()) for r in caplog.records if r.name == name]

    async def scenario() -> None:
        async with device.running(device.check("talk")):
            await until(lambda: sum(level == logging.WARNING for level, _ in said()) >= 4)

    run(device, scenario)
    assert any(message.startswith("talk one: take care ") for _, message in said())
    assert [level for level, message in said() if message == "talk one: plain"] == [logging.INFO]
    assert "talk one: bell\\x07" in [message for _, message in said()]
    assert any("more lines of output" in message for _, message in said())
    assert not any("hidden" in message for _, message in said())


def test_nothing_is_told_while_the_machine_shuts_down(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the script note that it has told: it is asked again after the boot."""
    monkeypatch.setattr(sysvinit, "is_systemd", lambda: False)
    monkeypatch.setattr(sysvinit, "shutting_down", lambda: True)
    device.subsystem("down", 'echo >"$BEGUN"; monitor_send_alert CRITICAL a b c d e; subsystem_set s k told')
    begun = device.paths.root / "begun"

    async def scenario() -> None:
        async with device.running(device.check("down", text=f"BEGUN={begun}")) as report:
            await until(begun.exists)
            await asyncio.sleep(0.2)  # time for what must not happen
            assert report.told == []
        assert not (device.paths.state / "subsystems").exists()

    run(device, scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused other users' scripts")
def test_a_script_that_others_can_write_is_not_run(device: Device) -> None:
    """It would be run as root. The state is unknown, and says why."""
    device.subsystem("open", "monitor_send_alert OK a b c d e")
    (device.paths.monitor_d / "open.sh").chmod(0o666)

    async def scenario() -> None:
        with pytest.raises(UnknownError, match="others than root can write it"):
            await device.check("open").run(device.host, KeptReport())

    run(device, scenario)


def test_a_check_that_is_disabled_ends_its_run(device: Device) -> None:
    """Neither its processes nor the bash and the runner outlive the last check."""
    device.subsystem("long", "monitor_send_alert OK begun d s st t; sleep 1000 & wait")

    async def scenario() -> None:
        async with device.running(device.check("long")) as report:
            await report.until(lambda: report.told)
            assert processes_of(device)
        await until(lambda: not processes_of(device))

    run(device, scenario)


def test_a_killed_bash_is_unknown_and_started_again(device: Device) -> None:
    """All its checks end with the reason, for the supervisor to start them again."""
    device.subsystem("kill", "kill -KILL $$")

    async def scenario() -> None:
        report = KeptReport()
        check = device.check("kill")
        with pytest.raises(UnknownError, match="ended with status -9"):
            await asyncio.wait_for(check.run(device.host, report), SOON)
        device.subsystem("kill", "monitor_send_alert OK again d s st t")
        async with device.running(check) as report:
            await report.until(lambda: report.told)

    run(device, scenario)


def test_many_checks_share_the_time(device: Device) -> None:
    """60 checks all run, and the descriptors that they need are given back."""
    device.subsystem("many", "monitor_send_alert OK done d s st t")

    async def scenario() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        tasks = []
        reports = []
        for number in range(60):
            report = KeptReport()
            reports.append(report)
            check = device.check("many", str(number))
            tasks.append(asyncio.create_task(check.run(device.host, report)))
        for report in reports:
            await report.until(lambda report=report: len(report.told) >= 2)  # type: ignore[misc]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await until(lambda: not processes_of(device))
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1

    run(device, scenario)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other processes do, which no event announces."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.02)


def processes_of(device: Device) -> list[int]:
    """The runner, the bash and what the runs left: the processes with our root in their variables."""
    wanted = f"MENDER_MONITOR_ROOT={device.paths.root}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
