"""The service subsystem: a stand-in for systemd on a real bus, and real init scripts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from jeepney import DBusAddress

from mender_monitor_py.alertstate import Limits, State, observe
from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host import sysvinit
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, OK, CheckId, Subject
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import service as subsystem
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.service import Patience, ServiceCheck
from mender_monitor_py.unitstate import Unit
from tests.fakes.bus_peer import BusPeer
from tests.fakes.executed import ended
from tests.fakes.fake_systemd import FakeSystemd, FakeUnit
from tests.fakes.private_bus import PrivateBus
from tests.fakes.reports import KeptReport

PATIENCE = 90.0
DIED = {
    "Result": ("s", "signal"),
    "ExecMainCode": ("i", 2),
    "ExecMainStatus": ("i", 9),
    "ExecMainStartTimestampMonotonic": ("t", 1_000_000),
    "ExecMainExitTimestampMonotonic": ("t", 61_000_000),
    "NRestarts": ("u", 2),
}

Test = Callable[[Host, FakeSystemd], Awaitable[None]]


def service(**values: str) -> ServiceCheck:
    return ServiceCheck(Definition(CheckId("service", "cron"), values, "service_cron.sh"), Settings())


@contextlib.asynccontextmanager
async def running(host: Host, one: ServiceCheck) -> AsyncIterator[KeptReport]:
    report = KeptReport()
    task = asyncio.get_running_loop().create_task(one.run(host, report))
    try:
        yield report
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def run(private_bus: PrivateBus, paths: Paths) -> Callable[[Test], None]:
    """Runs a test with a systemd that has cron and ssh."""

    async def with_systemd(test: Test) -> None:
        host = Host(paths, Clock())
        async with asyncio.timeout(PATIENCE), FakeSystemd(private_bus.address) as systemd:
            systemd.add("cron.service")
            systemd.add("ssh.service")
            try:
                await test(host, systemd)
            finally:
                await host.aclose()

    return lambda test: asyncio.run(with_systemd(test))


def levels(report: KeptReport) -> list[str]:
    return [seen.level for seen in report.observed]


async def steady(report: KeptReport, level: str) -> None:
    """Wait until the newest observation has *level*."""
    await report.until(lambda: levels(report)[-1:] == [level])


def test_a_service_that_stops_and_starts(run: Callable[[Test], None]) -> None:
    """The alerts are the contract's."""

    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service(SERVICE_NAME="cron", SERVICE_TYPE="systemd")) as report:
            await steady(report, OK)
            systemd.units["cron.service"].facts = DIED
            await systemd.change("cron.service", "failed", "failed")
            await steady(report, CRITICAL)
            await systemd.change("cron.service", "active", "running")
            await steady(report, OK)
        assert levels(report) == [OK, CRITICAL, OK]
        stopped, started = report.observed[1:]
        assert stopped.name == started.name == "Service cron not running"
        assert stopped.flapping_name == "Service cron going up and down"
        assert stopped.subject == Subject("cron", "service", "not-running")
        assert stopped.details.description == (
            "cron.service is failed (failed): its main process was ended by SIGKILL after 1 min 0 s;"
            " systemd has restarted it 2 times"
        )
        assert started.subject == Subject("cron", "service", "running")
        assert started.details.description == "The main process is present again"
        assert not stopped.event

    run(test)


@pytest.mark.parametrize("active", ["inactive", "deactivating", "activating", "failed", "maintenance"])
def test_what_is_active_does_not_call_active_is_not_running(run: Callable[[Test], None], active: str) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            await systemd.change("cron.service", "reloading")
            await systemd.change("cron.service", "refreshing")
            await systemd.change("cron.service", active)
            await steady(report, CRITICAL)
        assert levels(report) == [OK, CRITICAL]

    run(test)


def test_a_unit_that_does_not_exist_is_not_running_and_says_so(run: Callable[[Test], None]) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service(SERVICE_NAME="nothing")) as report:
            await steady(report, CRITICAL)
            assert "no unit nothing.service" in report.observed[0].details.description
            # it is installed and started
            systemd.add("nothing.service", active="inactive")
            await systemd.tell("Reloading", "b", True)
            await systemd.tell("Reloading", "b", False)
            await report.until(lambda: report.states == ["known"])
            await systemd.change("nothing.service", "active")
            await steady(report, OK)

    run(test)


def test_a_service_that_is_not_required_may_be_missing_but_not_stopped(run: Callable[[Test], None]) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service(SERVICE_NAME="nothing", SERVICE_REQUIRED="no")) as report:
            await steady(report, OK)
        async with running(host, service(SERVICE_REQUIRED="no")) as report:
            await steady(report, OK)
            await systemd.change("cron.service", "inactive", "dead")
            await steady(report, CRITICAL)

    run(test)


def test_a_unit_that_is_made_at_run_time_is_known_from_then_on(run: Callable[[Test], None]) -> None:
    """`systemd-run` tells of no reload."""

    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service(SERVICE_NAME="transient")) as report:
            await steady(report, CRITICAL)
            systemd.add("transient.service")
            await systemd.change("transient.service", "active")
            await steady(report, OK)
            await systemd.change("transient.service", "inactive", "dead")
            await steady(report, CRITICAL)
        assert report.observed[-1].details.description == "transient.service is inactive (dead)"

    run(test)


def test_an_alias_is_the_unit_that_it_names(run: Callable[[Test], None]) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        systemd.aliases["sshd.service"] = "ssh.service"
        async with running(host, service(SERVICE_NAME="sshd")) as report:
            await steady(report, OK)
            await systemd.change("ssh.service", "inactive")
            await steady(report, CRITICAL)

    run(test)


@pytest.mark.parametrize("name", ["logrotate.timer", "docker.socket", "/data", "getty@tty1", "spool.path"])
def test_every_kind_of_unit_can_be_watched(run: Callable[[Test], None], name: str) -> None:
    units = {"/data": "data.mount", "getty@tty1": "getty@tty1.service"}

    async def test(host: Host, systemd: FakeSystemd) -> None:
        unit = systemd.add(units.get(name, name))
        async with running(host, service(SERVICE_NAME=name)) as report:
            await steady(report, OK)
            await systemd.change(unit.name, "inactive", "dead")
            await steady(report, CRITICAL)
        assert report.observed[-1].subject.name == name

    run(test)


def test_a_restart_that_comes_back_at_once_is_running(run: Callable[[Test], None]) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            for active, job in (
                ("active", 7),
                ("deactivating", 7),
                ("inactive", 7),
                ("activating", 7),
                ("active", 0),
            ):
                await systemd.change("cron.service", active, job=job)
            await report.until(lambda: report.states == ["known"] * 2)
        assert levels(report) == [OK]

    run(test)


def test_a_restart_that_fails_is_told_as_soon_as_it_has_failed(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when the patience with restarts has ended."""
    monkeypatch.setattr(subsystem, "_RESTART_S", 3600.0)

    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            await systemd.change("cron.service", "inactive", job=7)
            await systemd.change("cron.service", "activating", job=7)
            await systemd.change("cron.service", "failed")
            await steady(report, CRITICAL)

    run(test)


def test_patience_with_a_restart_ends() -> None:
    """It is counted from its begin, however often the unit changes; a running unit ends it."""
    patience = Patience()
    active, stopping, starting = (
        Unit("x.service", "loaded", state, "any", job=job)
        for state, job in (("active", 7), ("deactivating", 7), ("activating", 7))
    )
    assert patience.left(active, 0) == 0
    assert patience.left(stopping, 1) == 5
    assert patience.left(starting, 4) == 2
    assert patience.left(starting, 6) == 0
    assert patience.left(starting, 7) == 0
    assert patience.left(active, 8) == 0
    assert patience.left(stopping, 9) == 5
    assert patience.left(Unit("x.service", "loaded", "failed", "failed"), 10) == 0


def test_a_service_that_dies_and_is_back_at_once_is_told_twice(run: Callable[[Test], None]) -> None:
    """No job is behind it: both changes count, for flapping too."""

    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            for _ in range(4):
                await systemd.change("cron.service", "activating", "auto-restart")
                await systemd.change("cron.service", "active", "running")
            await report.until(lambda: len(report.observed) == 9)
        assert levels(report) == [OK, *[CRITICAL, OK] * 4]
        state, names = State(), []
        for seen in report.observed:
            state, alerts = observe(state, seen, 1.0, Limits(60, 8))
            names += [alert.name for alert in alerts]
        assert names[-1] == "Service cron going up and down"

    run(test)


@pytest.mark.parametrize("logind", [False, True])
def test_nothing_is_told_while_the_machine_shuts_down(run: Callable[[Test], None], logind: bool) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            if logind:
                systemd.preparing_for_shutdown = True
            else:
                systemd.system_state = "stopping"
            assert await host.systemd.shutting_down()
            await systemd.change("cron.service", "inactive")
            await report.until(lambda: report.states == ["known"])
            # the bus goes down as well
            await systemd.stop()
        assert levels(report) == [OK]

    run(test)


def test_while_the_system_boots_services_may_still_come_up(run: Callable[[Test], None]) -> None:
    """Told when it has booted: what came up is fine, what did not is not."""

    async def test(host: Host, systemd: FakeSystemd) -> None:
        systemd.system_state = "starting"
        systemd.userspace_began = int(time.monotonic() * 1e6)
        for name in ("cron.service", "ssh.service"):
            systemd.units[name].active = "inactive"
        async with running(host, service()) as cron, running(host, service(SERVICE_NAME="ssh")) as ssh:
            await cron.until(lambda: cron.states == ["known"])
            await ssh.until(lambda: ssh.states == ["known"])
            await systemd.change("cron.service", "active")
            await steady(cron, OK)
            systemd.system_state = "degraded"
            await systemd.tell("StartupFinished", "tttttt", 1, 1, 1, 1, 1, 1)
            await steady(ssh, CRITICAL)
        assert levels(cron) == [OK]
        assert levels(ssh) == [CRITICAL]

    run(test)


def test_a_boot_that_never_ends_is_waited_for_three_minutes(run: Callable[[Test], None]) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        systemd.system_state = "starting"
        systemd.userspace_began = int((time.monotonic() - 60) * 1e6)
        assert 0 < await host.systemd.boot_seconds_left() <= 120
        systemd.userspace_began = int((time.monotonic() - 179) * 1e6)
        systemd.units["cron.service"].active = "failed"
        async with running(host, service()) as report:
            await steady(report, CRITICAL)

    run(test)


def test_what_broke_and_what_came_back_while_we_were_away_is_seen_at_the_start(
    run: Callable[[Test], None],
) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        await systemd.change("cron.service", "failed", "failed")
        async with running(host, service()) as broken, running(host, service(SERVICE_NAME="ssh")) as fine:
            await steady(broken, CRITICAL)
            await steady(fine, OK)

    run(test)


def test_systemd_is_executed_anew(run: Callable[[Test], None]) -> None:
    """It forgets who subscribed; a change that nobody told is found."""

    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            await systemd.stop()
            systemd.units["cron.service"].active = "inactive"
            await systemd.start()
            await steady(report, CRITICAL)
            assert systemd.subscribers
            await systemd.change("cron.service", "active")
            await steady(report, OK)

    run(test)


def test_the_bus_restarts(run: Callable[[Test], None], private_bus: PrivateBus) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            for _ in range(2):
                await systemd.stop()
                private_bus.restart()
                systemd.units["cron.service"].active = "inactive"
                await systemd.start()
                await steady(report, CRITICAL)
                await systemd.change("cron.service", "active")
                await steady(report, OK)
        assert levels(report) == [OK, CRITICAL, OK, CRITICAL, OK]

    run(test)


def test_a_systemd_that_does_not_answer_is_unknown_in_the_end(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before three calls have failed; the state is kept, and everything is read once it answers."""

    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            monkeypatch.setattr("mender_monitor_py.host.systemd._CALL_S", 0.1)
            monkeypatch.setattr("mender_monitor_py.host.systemd._LONGEST_PAUSE_S", 0.1)
            for active in ("active", "inactive"):
                systemd.mute = True
                before = len(systemd.calls)
                await systemd.tell("Reloading", "b", False)
                await report.until(lambda: "did not answer ListUnitsByNames" in "".join(report.states[-1:]))
                await systemd.until(lambda: len(systemd.calls) - before >= 3)  # noqa: B023
                assert levels(report) == [OK]
                systemd.units["cron.service"].active = active
                systemd.mute = False
                if active == "active":
                    await report.until(lambda: report.states[-1] == "known")
            await steady(report, CRITICAL)

    run(test)


def test_without_systemd_on_the_bus_the_state_is_unknown(private_bus: PrivateBus, paths: Paths) -> None:
    async def test() -> None:
        host = Host(paths, Clock())
        async with asyncio.timeout(PATIENCE), running(host, service()) as report:
            await report.until(lambda: report.states)
            assert "org.freedesktop.systemd1" in report.states[0]
            assert report.observed == []
        await host.aclose()

    asyncio.run(test())


def test_another_process_cannot_stop_a_service_by_a_signal(
    run: Callable[[Test], None], private_bus: PrivateBus
) -> None:
    """It sends what systemd would send, to all and to us."""

    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with running(host, service()) as report:
            await steady(report, OK)
            ours = next(iter(host.bus.connections)).name
            failed = FakeSystemd.unit_properties(FakeUnit("cron.service", active="failed"))
            source = DBusAddress(
                "/org/freedesktop/systemd1/unit/cron_2eservice",
                interface="org.freedesktop.DBus.Properties",
            )
            with BusPeer(private_bus.address) as peer:
                for to in ("", ours):
                    peer.signal(
                        "PropertiesChanged",
                        "sa{sv}as",
                        "org.freedesktop.systemd1.Unit",
                        failed,
                        [],
                        to=to,
                        address=source,
                    )
                peer.ask_bus("GetId")
            await systemd.change("cron.service", "active")
            await report.until(lambda: report.states == ["known"])
        assert levels(report) == [OK]

    run(test)


def test_checks_that_come_and_go_leave_no_rule_and_no_descriptor(
    run: Callable[[Test], None], private_bus: PrivateBus
) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async def once() -> tuple[int, int]:
            systemd.aliases["sshd.service"] = "ssh.service"
            for name in ("cron", "sshd"):
                async with running(host, service(SERVICE_NAME=name)) as report:
                    await steady(report, OK)
            await host.bus.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId")
            return host.bus._rules.total(), len(list(Path("/proc/self/fd").iterdir()))

        first = await once()
        for _ in range(20):
            last = await once()
        assert last == first

    run(test)


def test_fifty_services_are_read_with_few_calls(run: Callable[[Test], None]) -> None:
    async def test(host: Host, systemd: FakeSystemd) -> None:
        async with contextlib.AsyncExitStack() as stack:
            reports = []
            for number in range(50):
                systemd.add(f"s{number}.service")
                one = service(SERVICE_NAME=f"s{number}")
                reports.append(await stack.enter_async_context(running(host, one)))
            for report in reports:
                await steady(report, OK)
            assert systemd.calls.count("Subscribe") == 1
            assert systemd.calls.count("ListUnitsByNames") == 50
            await systemd.change("s49.service", "inactive")
            await steady(reports[49], CRITICAL)
            assert all(levels(report) == [OK] for report in reports[:49])

    run(test)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"SERVICE_TYPE": "upstart"}, "SERVICE_TYPE: 'upstart' is neither systemd nor sysV"),
        ({"SERVICE_NAME": "getty@"}, "SERVICE_NAME: getty@.service is a template"),
        ({"SERVICE_NAME": "../x", "SERVICE_TYPE": "sysV"}, "cannot be an init script's name"),
        ({"SERVICE_NAME": "-x", "SERVICE_TYPE": "sysv"}, "cannot be an init script's name"),
    ],
)
def test_a_definition_that_cannot_work_is_refused(values: dict[str, str], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        service(**values)


def test_a_missing_type_means_systemd_and_a_missing_name_the_checks() -> None:
    assert service()._unit == "cron.service"
    assert service(SERVICE_TYPE="SYSTEMD", SERVICE_NAME="ssh")._unit == "ssh.service"
    assert service(SERVICE_TYPE="sysV")._unit == ""


# init scripts


class Script:
    """A real init script: its answer to ``status`` is in a file."""

    def __init__(self, folder: Path, name: str = "lamp") -> None:
        self._answer = folder / f"{name}.answer"
        self.path = folder / name
        self.path.write_text(f'#!/bin/sh\n[ "$1" = status ] || exit 99\n. {self._answer}\n')
        self.path.chmod(0o755)
        self.answer("exit 0")

    def answer(self, code: str) -> None:
        new = self._answer.with_suffix(".new")
        new.write_text(code + "\n")
        new.rename(self._answer)


def sysv(folder: Path, name: str = "lamp") -> ServiceCheck:
    class Moved(ServiceCheck):
        scripts = folder

    values = {"SERVICE_NAME": name, "SERVICE_TYPE": "sysV"}
    return Moved(Definition(CheckId("service", name), values), Settings(shell_subsystem_interval=0.05))


@contextlib.asynccontextmanager
async def a_host(paths: Paths) -> AsyncIterator[Host]:
    host = Host(paths, Clock())
    try:
        async with asyncio.timeout(PATIENCE):
            yield host
    finally:
        await host.aclose()


@pytest.fixture
def _booted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with SysV init, up for long."""
    monkeypatch.setattr(sysvinit, "is_systemd", lambda: False)
    monkeypatch.setattr(Clock, "boottime", lambda self: 10_000.0)


@pytest.mark.usefixtures("_booted")
@pytest.mark.parametrize(
    ("code", "words"), [(1, "its pid file"), (2, "its lock file"), (3, "it is not running")]
)
def test_an_init_script_says_whether_its_service_runs(
    tmp_path: Path, paths: Paths, code: int, words: str
) -> None:
    async def test() -> None:
        script = Script(tmp_path)
        async with a_host(paths) as host, running(host, sysv(tmp_path)) as report:
            await steady(report, OK)
            script.answer(f"exit {code}")
            await steady(report, CRITICAL)
            assert words in report.observed[-1].details.description
            script.answer("exit 0")
            await steady(report, OK)
            assert report.observed[-1].subject == Subject("lamp", "service", "running")

    asyncio.run(test())


@pytest.mark.usefixtures("_booted")
@pytest.mark.parametrize("answer", ["exit 4", "exit 77", "echo 'Usage: lamp {start|stop}'; exit 3"])
def test_a_script_that_does_not_say_is_unknown(tmp_path: Path, paths: Paths, answer: str) -> None:
    async def test() -> None:
        script = Script(tmp_path)
        async with a_host(paths) as host, running(host, sysv(tmp_path)) as report:
            await steady(report, OK)
            script.answer(answer)
            await report.until(lambda: report.states)
            assert "which tells nothing" in report.states[0]
            assert set(levels(report)) == {OK}

    asyncio.run(test())


@pytest.mark.usefixtures("_booted")
def test_a_script_that_hangs_is_ended_with_all_it_started(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysvinit, "_STATUS_S", 0.3)
    pid_file = tmp_path / "pid"

    async def test() -> None:
        Script(tmp_path).answer(f"sleep 1000 & echo $! > {pid_file}; wait")
        async with a_host(paths) as host, running(host, sysv(tmp_path)) as report:
            # A busy machine may not get so far at the first time.
            await report.until(lambda: report.states and pid_file.exists() and pid_file.read_text())
            assert "did not end within 0.3 s" in report.states[0]
            await asyncio.to_thread(ended, int(pid_file.read_text()))
            assert report.observed == []

    asyncio.run(test())


@pytest.mark.usefixtures("_booted")
def test_a_script_that_does_not_exist_is_a_service_that_does_not_run(tmp_path: Path, paths: Paths) -> None:
    async def test() -> None:
        async with a_host(paths) as host, running(host, sysv(tmp_path, "gone")) as report:
            await steady(report, CRITICAL)
            assert f"there is no init script {tmp_path}/gone" in report.observed[0].details.description

    asyncio.run(test())


def test_a_service_that_is_restarted_by_its_script_is_running(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is down in every first look, and up in the second."""
    monkeypatch.setattr(sysvinit, "is_systemd", lambda: False)
    monkeypatch.setattr(Clock, "boottime", lambda self: 10_000.0)
    flag = tmp_path / "flag"

    async def test() -> None:
        Script(tmp_path).answer(f"[ -e {flag} ] && rm {flag} && exit 0; touch {flag}; exit 3")
        async with a_host(paths) as host, running(host, sysv(tmp_path)) as report:
            await report.until(lambda: len(report.observed) == 3)
        assert levels(report) == [OK] * 3

    asyncio.run(test())


def test_at_boot_and_at_shutdown_init_scripts_tell_nothing(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysvinit, "is_systemd", lambda: False)
    monkeypatch.setattr(Clock, "boottime", lambda self: 10.0)

    async def test() -> None:
        count = tmp_path / "count"
        Script(tmp_path).answer(f"echo >> {count}; exit 3")
        async with a_host(paths) as host, running(host, sysv(tmp_path)) as report:
            while not count.exists() or len(count.read_bytes()) < 6:
                await asyncio.sleep(0.01)
            assert report.observed == []
            monkeypatch.setattr(Clock, "boottime", lambda self: 10_000.0)
            await steady(report, CRITICAL)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("command", "expected"),
    [(b"init [6]\0\0", True), (b"init [0]", True), (b"init [2]", False), (b"/sbin/init\0splash\0", False)],
)
def test_sysv_init_shows_that_it_goes_down(tmp_path: Path, command: bytes, expected: bool) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/cmdline").write_bytes(command)
    assert sysvinit.shutting_down(tmp_path) is expected
    assert not sysvinit.shutting_down(tmp_path / "nowhere")


def test_systemd_is_told_by_its_folder(tmp_path: Path) -> None:
    assert not sysvinit.is_systemd(tmp_path)
    (tmp_path / "systemd/system").mkdir(parents=True)
    assert sysvinit.is_systemd(tmp_path)
