"""The login check on a file that syslog writes. Real logins and the real journal are in tests/system."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.model import CRITICAL, CheckId, Observation
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.login import LoginCheck
from tests.fakes.judging import JudgingReport
from tests.fakes.watched import elapse, watched

BY_KEY = "Accepted publickey for root from 10.0.0.5 port 4711 ssh2: ED25519 SHA256:abc"
REFUSED = "Failed password for root from {address} port {port} ssh2"
SUDO = "   admin : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND={command}"


class AuthLog:
    """The file, and the check that reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "auth.log"
        self._path.touch()

    def write(self, *messages: str, tag: str = "sshd[1]") -> None:
        with self._path.open("a") as file:
            file.writelines(f"Nov 25 19:24:10 vm {tag}: {message}\n" for message in messages)

    def watch(
        self,
        work: Callable[[JudgingReport], Awaitable[None]],
        report: JudgingReport | None = None,
        **values: str,
    ) -> JudgingReport:
        """Do *work* while the check runs."""

        async def main() -> JudgingReport:
            settings = {"LOGIN_SOURCE": str(self._path), **values}
            check = LoginCheck(Definition(CheckId("login", "root"), settings), Settings())
            async with watched(Paths(self._folder / "root"), check, report) as told:
                await work(told)
            return told

        return asyncio.run(main())


@pytest.fixture
def auth_log(tmp_path: Path) -> AuthLog:
    return AuthLog(tmp_path)


def alerts(report: JudgingReport) -> list[tuple[str, str, str]]:
    return [(alert.level, alert.name, alert.subject.name) for alert in report.alerts]


def test_what_is_written_from_now_on(auth_log: AuthLog) -> None:
    """
    With all that a person needs. What a new check finds in the file was there before it.
    """
    auth_log.write("Accepted password for root from 10.9.9.9 port 1 ssh2")

    async def work(report: JudgingReport) -> None:
        auth_log.write(BY_KEY)
        await report.until(lambda: report.alerts)

    report = auth_log.watch(work)
    subject = "root from 10.0.0.5 by publickey ED25519 SHA256:abc"
    assert alerts(report) == [(CRITICAL, "Root login over ssh", subject)]
    assert report.alerts[0].subject.status == "accepted"
    assert report.alerts[0].details.description.splitlines() == [
        "user: root",
        "from: 10.0.0.5 port 4711",
        "with: publickey ED25519 SHA256:abc",
        "time: Nov 25 19:24:10",
        "count: 1",
        "pid: 1",
    ]
    assert "local users can forge" in report.notes["source"]


def test_attempts_are_one_alert_for_an_address(auth_log: AuthLog) -> None:
    async def work(report: JudgingReport) -> None:
        for address in ("10.0.0.5", "10.0.0.6"):
            auth_log.write(*(REFUSED.format(address=address, port=port) for port in range(1, 101)))
        await report.until(lambda: sum(state.repeats for state in report.states.values()) == 198)

    report = auth_log.watch(work)
    assert alerts(report) == [
        (CRITICAL, "Root login refused over ssh", "10.0.0.5"),
        (CRITICAL, "Root login refused over ssh", "10.0.0.6"),
    ]
    newest = [state.last for state in report.states.values()]
    assert all(seen is not None and "count: 100, the first at" in seen.details.description for seen in newest)


def test_many_addresses_at_once_share_an_alert(auth_log: AuthLog) -> None:
    """
    For an hour; who succeeds meanwhile has an alert of his own, and the check goes on.
    """

    async def work(report: JudgingReport) -> None:
        auth_log.write(*(REFUSED.format(address=f"10.0.0.{number}", port=1) for number in range(10)))
        await report.until(lambda: report.is_bad("+more refused"))
        for number in (9, 11):  # one that was summed up, and one more
            memory = report.memory
            auth_log.write(REFUSED.format(address=f"10.0.0.{number}", port=2))
            await report.until(lambda: report.memory != memory)  # noqa: B023
        auth_log.write(BY_KEY)
        await report.until(lambda: len(report.alerts) == 5)

    report = auth_log.watch(work, LOGIN_MAX_ALERTS="3")
    names = [name for _, name, _ in alerts(report)]
    assert names == ["Root login refused over ssh"] * 3 + ["Many refused logins", "Root login over ssh"]
    assert "7 more findings at once" in report.alerts[3].details.description


def test_each_command_is_a_finding_and_shows_no_secret(auth_log: AuthLog) -> None:
    """
    Expected ones are none, and a question of sudo runs nothing.
    """
    auth_log.write("x")

    async def work(report: JudgingReport) -> None:
        commands = ("/usr/bin/systemctl restart x", "list", "/bin/app --password=abc", "/bin/sh", "/bin/app")
        auth_log.write(*(SUDO.format(command=command) for command in commands), tag="sudo")
        await report.until(lambda: any(state.repeats for state in report.states.values()))

    report = auth_log.watch(work, LOGIN_ALLOW="sudo admin /usr/bin/systemctl*")
    name = "sudo to root by admin"
    assert alerts(report) == [(CRITICAL, name, "admin /bin/app"), (CRITICAL, name, "admin /bin/sh")]
    assert "command: /bin/app --password=***" in report.alerts[0].details.description


def test_what_is_not_asked_for_is_not_told(auth_log: AuthLog) -> None:
    """
    LOGIN_ON, LOGIN_METHODS and LOGIN_USER.
    """

    async def work(report: JudgingReport) -> None:
        auth_log.write(BY_KEY, BY_KEY.replace("root", "operator"), REFUSED.format(address="10.0.0.5", port=9))
        auth_log.write("(to root) operator on pts/0", "FAILED SU (to operator) bob on pts/0", tag="su[2]")
        auth_log.write("FAILED SU (to operator) root on pts/0", tag="su[2]")  # root need not ask
        auth_log.write(REFUSED.format(address="10.0.0.7", port=9).replace("root", "operator"))
        await report.until(lambda: len(report.alerts) == 2)

    report = auth_log.watch(work, LOGIN_ON="failure", LOGIN_USER="operator")
    assert [name for _, name, _ in alerts(report)] == [
        "su to operator refused for bob",
        "Login of operator refused over ssh",
    ]

    async def sudo_only(report: JudgingReport) -> None:
        auth_log.write(BY_KEY)
        auth_log.write(SUDO.format(command="/bin/sh"), tag="sudo")
        await report.until(lambda: report.alerts)

    assert [name for _, name, _ in alerts(auth_log.watch(sudo_only, LOGIN_METHODS="sudo"))] == [
        "sudo to root by admin"
    ]


def test_a_restart_misses_nothing_and_repeats_nothing(auth_log: AuthLog) -> None:
    async def first(report: JudgingReport) -> None:
        auth_log.write(BY_KEY)
        await report.until(lambda: report.alerts)
        auth_log.write(SUDO.format(command="/bin/held"), tag="sudo")  # maybe to be continued
        await elapse(0.2)

    before = auth_log.watch(first)
    assert len(before.alerts) == 2
    auth_log.write(SUDO.format(command="/bin/missed"), tag="sudo")

    async def second(report: JudgingReport) -> None:
        await report.until(lambda: report.alerts)

    after = auth_log.watch(second, JudgingReport(before.memory))
    assert [subject for _, _, subject in alerts(after)] == ["admin /bin/missed"]


class EndingReport(JudgingReport):
    """That of a daemon that ends: it takes no observation any more, as the recorder then."""

    def observe(self, observation: Observation, memory: str | None = None) -> None:
        self.note("seen", observation.name)


def test_what_the_daemon_did_not_take_is_read_again(auth_log: AuthLog) -> None:
    """
    The place to go on from is not beyond it.
    """
    ending = EndingReport()

    async def first(report: JudgingReport) -> None:
        auth_log.write(BY_KEY)
        await report.until(lambda: "seen" in report.notes)

    auth_log.watch(first, ending)

    async def second(report: JudgingReport) -> None:
        await report.until(lambda: report.alerts)

    assert len(auth_log.watch(second, JudgingReport(ending.memory)).alerts) == 1


def test_a_file_that_is_not_there_is_waited_for(auth_log: AuthLog, tmp_path: Path) -> None:
    missing = tmp_path / "log/secure"

    async def work(report: JudgingReport) -> None:
        missing.parent.mkdir()
        missing.write_text(f"Nov 25 19:24:10 vm sshd[1]: {BY_KEY}\n")
        await report.until(lambda: report.alerts)

    async def main() -> JudgingReport:
        check = LoginCheck(Definition(CheckId("login", "x"), {"LOGIN_SOURCE": str(missing)}), Settings())
        async with watched(Paths(tmp_path / "root"), check, knows=False) as report:
            assert report.reason == f"{missing} is not there"
            await work(report)
        return report

    assert len(asyncio.run(main()).alerts) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOGIN_METHODS", "telnet"),
        ("LOGIN_ON", "never"),
        ("LOGIN_ALLOW", "ssh root 10.0.0.0/99"),
        ("LOGIN_SOURCE", "auth.log"),
        ("LOGIN_EXPIRATION", "0"),
        ("LOGIN_MAX_ALERTS", "many"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    with pytest.raises(DefinitionError, match=name):
        LoginCheck(Definition(CheckId("login", "root"), {name: value}), Settings())
