"""The dbus subsystem on a real bus, with signals of other processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress

from mender_monitor_py.errors import DefinitionError, UnknownError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, CheckId, Line, Observation, Subject
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.dbus import DbusCheck, readable
from tests.fakes.bus_peer import BusPeer
from tests.fakes.private_bus import NO_MONITORS, PrivateBus
from tests.fakes.reports import KeptReport

SETTINGS = Settings(default_dbus_alert_expiration_seconds=600)
WATCH = "type='signal',interface='org.example.Lamp'"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJl-_"
AUTHENTICATION = DBusAddress("/io/mender/AuthenticationManager", interface="io.mender.Authentication1")


def check(**values: str) -> DbusCheck:
    return DbusCheck(Definition(CheckId("dbus", "lamp"), values, "dbus_lamp.sh"), SETTINGS)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def running(paths: Paths, one: DbusCheck) -> AsyncIterator[KeptReport]:
    """*one* at work, as soon as it monitors the bus."""
    host, report = Host(paths, Clock()), KeptReport()
    task = asyncio.get_running_loop().create_task(one.run(host, report))
    try:
        await report.until(lambda: "known" in report.states)
        yield report
    finally:
        task.cancel()
        await asyncio.wait([task])
        await host.aclose()


async def first(report: KeptReport) -> Observation:
    await report.until(lambda: report.observed)
    return report.observed[0]


def test_one_signal_is_enough(private_bus: PrivateBus, paths: Paths) -> None:
    """The alert is the contract's, with the signal's text as dbus-monitor prints it."""

    async def test() -> None:
        with BusPeer(private_bus.address) as lamp:
            async with running(paths, check(DBUS_NAME="Lamp", DBUS_WATCH_EXPRESSION=WATCH)) as report:
                lamp.signal("Switched", "sa{sv}", "on", {"by": ("s", "hand")})
                seen = await first(report)
        assert seen.name == f"D-Bus signal arrived on bus {WATCH}"
        assert seen.level == CRITICAL
        assert seen.subject == Subject("Lamp", "dbus", "DBUS_SIGNAL_ARRIVED")
        assert seen.event
        assert seen.details.description == f"The signal org.example.Lamp.Switched from {lamp.name}"
        assert seen.details.lines_before == ()
        assert seen.details.line_matching is not None
        assert seen.details.line_matching.data.endswith(
            "path=/org/example/Lamp; interface=org.example.Lamp; member=Switched"
        )
        assert seen.details.lines_after[0] == Line(2, '   string "on"')
        assert len(seen.details.lines_after) == 7

    run(test())


def test_a_pattern_alone_sees_the_signals_of_all(private_bus: PrivateBus, paths: Paths) -> None:
    """Also one that was for somebody else, and a call; the line that matched is shown as such."""

    async def test() -> None:
        with BusPeer(private_bus.address) as lamp, BusPeer(private_bus.address) as user:
            async with running(paths, check(DBUS_PATTERN='^ +string "o[nf]+"$')) as report:
                lamp.signal("Other", "s", "green")
                lamp.signal("Switched", "us", 1, "off", to=user.name)
                seen = await first(report)
        assert seen.name == "D-Bus signal arrived on bus system bus"
        assert seen.subject.name == "lamp"
        assert seen.details.line_matching == Line(3, '   string "off"')
        assert [line.number for line in seen.details.lines_before] == [1, 2]
        assert 'contains ^ +string "o[nf]+"$' in seen.details.description

    run(test())


def test_both_filters_must_hold(private_bus: PrivateBus, paths: Paths) -> None:
    async def test() -> None:
        with BusPeer(private_bus.address) as lamp:
            both = check(DBUS_PATTERN="on", DBUS_WATCH_EXPRESSION=f"{WATCH},member='Switched'")
            async with running(paths, both) as report:
                lamp.signal("Dimmed", "s", "on")
                lamp.signal("Switched", "s", "off")
                lamp.signal("Switched", "s", "on")
                seen = await first(report)
        assert seen.details.line_matching is not None
        # "on" is in the headline already: dbus-monitor prints "destination"
        assert "member=Switched" in seen.details.line_matching.data

    run(test())


def test_every_single_signal_counts(private_bus: PrivateBus, paths: Paths) -> None:
    """Twenty checks, each with one signal that is sent once, among many others."""

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            reports = [
                await stack.enter_async_context(
                    running(paths, check(DBUS_WATCH_EXPRESSION=f"{WATCH},arg0='{number}'"))
                )
                for number in range(20)
            ]
            with BusPeer(private_bus.address) as lamp:
                for number in range(20):
                    for noise in range(20):
                        lamp.signal("Noise", "u", noise)
                    lamp.signal("Switched", "s", str(number))
                for report in reports:
                    await first(report)
        assert all(len(report.observed) == 1 for report in reports)

    run(test())


def test_it_follows_the_bus_over_a_restart(private_bus: PrivateBus, paths: Paths) -> None:
    """The first signal after the monitor is back counts; in between the state is unknown."""

    async def test() -> None:
        async with running(paths, check(DBUS_WATCH_EXPRESSION=WATCH)) as report:
            for _ in range(2):
                private_bus.stop()
                await report.until(lambda: report.states[-1] != "known")
                assert report.observed == []
                private_bus.start()
                await report.until(lambda: report.states[-1] == "known")
            with BusPeer(private_bus.address) as lamp:
                lamp.signal()
                await first(report)

    run(test())


def test_what_the_daemon_does_on_the_bus_does_not_count(private_bus: PrivateBus, paths: Paths) -> None:
    async def test() -> None:
        host, report = Host(paths, Clock()), KeptReport()
        loop = asyncio.get_running_loop()
        task = loop.create_task(check(DBUS_PATTERN="member=|return").run(host, report))
        other = loop.create_task(check(DBUS_PATTERN="nothing").run(host, KeptReport()))
        await report.until(lambda: "known" in report.states)
        host.bus.watch("interface='org.example.Lamp'", lambda signal: None)
        await host.bus.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ListNames")
        with BusPeer(private_bus.address) as lamp:
            # of this connection the bus tells as well
            await report.until(lambda: report.observed)
            assert lamp.name in report.observed[0].details.description + str(report.observed[0].details)
        for one in (task, other):
            one.cancel()
            await asyncio.wait([one])
        await host.aclose()

    run(test())


def test_a_storm_is_reported_once_a_second(private_bus: PrivateBus, paths: Paths) -> None:
    """The last signal of the storm renews the alert."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with BusPeer(private_bus.address) as lamp:
            async with running(paths, check(DBUS_WATCH_EXPRESSION=WATCH)) as report:
                begin = loop.time()
                for number in range(3000):
                    lamp.signal("Storm", "u", number)
                lamp.ask_bus("GetId")

                def last() -> bool:
                    newest = report.observed[-1:]
                    return [seen.details.lines_after[0].data for seen in newest] == ["   uint32 2999"]

                await report.until(last)
                assert len(report.observed) <= 2 + (loop.time() - begin)

    run(test())


def test_a_renewal_in_a_storm_is_one_that_matches(private_bus: PrivateBus, paths: Paths) -> None:
    async def test() -> None:
        with BusPeer(private_bus.address) as lamp:
            async with running(
                paths, check(DBUS_PATTERN="uint32 [17]$", DBUS_WATCH_EXPRESSION=WATCH)
            ) as report:
                for number in (1, 7, 8, 9):
                    lamp.signal("Storm", "u", number)
                await report.until(lambda: len(report.observed) == 2)
                lines = [seen.details.line_matching for seen in report.observed]
                assert lines == [Line(2, "   uint32 1"), Line(2, "   uint32 7")]

    run(test())


def test_the_device_token_is_not_in_the_alert(private_bus: PrivateBus, paths: Paths) -> None:
    """The check of the field that watches the update client sees its token pass by."""

    async def test() -> None:
        watch = "type=signal,interface=io.mender.Authentication1"
        with BusPeer(private_bus.address) as client:
            async with running(paths, check(DBUS_WATCH_EXPRESSION=watch, DBUS_PATTERN="https")) as report:
                client.signal("JwtTokenStateChange", "ss", TOKEN, "https://x", address=AUTHENTICATION)
                seen = await first(report)
        assert TOKEN[:20] not in str(seen)
        assert seen.details.lines_before[-1].data == '   string "(token)"'

    run(test())


def test_a_bus_that_forbids_monitors_is_a_reason_to_be_unknown(tmp_path: Path, paths: Paths) -> None:
    async def test() -> None:
        host = Host(paths, Clock())
        try:
            with pytest.raises(UnknownError, match="AccessDenied"):
                await check(DBUS_PATTERN="x").run(host, KeptReport())
        finally:
            await host.aclose()

    with PrivateBus(tmp_path, NO_MONITORS) as private, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBUS_SYSTEM_BUS_ADDRESS", private.address)
        run(test())


def test_checks_that_come_and_go_leave_nothing_open(private_bus: PrivateBus, paths: Paths) -> None:
    async def test() -> None:
        host, report = Host(paths, Clock()), KeptReport()
        await host.bus.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            report = KeptReport()
            task = asyncio.get_running_loop().create_task(check(DBUS_PATTERN="x").run(host, report))
            await report.until(lambda kept=report: "known" in kept.states)  # type: ignore[misc]
            task.cancel()
            await asyncio.wait([task])
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        await host.aclose()

    run(test())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "DBUS_PATTERN: this and DBUS_WATCH_EXPRESSION are empty"),
        ({"DBUS_PATTERN": "", "DBUS_WATCH_EXPRESSION": " "}, "are empty"),
        ({"DBUS_PATTERN": "(("}, r"DBUS_PATTERN: .*parenthes"),
        ({"DBUS_WATCH_EXPRESSION": "type='signals'"}, "DBUS_WATCH_EXPRESSION: type: one of signal"),
        ({"DBUS_PATTERN": "x", "DBUS_ALERT_EXPIRATION": "soon"}, "DBUS_ALERT_EXPIRATION: 'soon'"),
        ({"DBUS_PATTERN": "x", "DBUS_PATTERN_EXPIRATION": "-1"}, "DBUS_PATTERN_EXPIRATION: '-1'"),
    ],
)
def test_a_definition_that_cannot_work_is_refused(values: dict[str, str], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        check(**values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 600),
        ({"DBUS_ALERT_EXPIRATION": "2m"}, 120),
        ({"DBUS_PATTERN_EXPIRATION": "16"}, 16),
        ({"DBUS_ALERT_EXPIRATION": "5", "DBUS_PATTERN_EXPIRATION": "16"}, 5),
        ({"DBUS_ALERT_EXPIRATION": "0"}, None),
    ],
)
def test_the_expiration_is_the_checks_else_the_settings(
    values: dict[str, str], expected: float | None
) -> None:
    assert check(DBUS_PATTERN="x", **values).expires_after == expected


def test_without_any_expiration_it_stays() -> None:
    definition = Definition(CheckId("dbus", "lamp"), {"DBUS_PATTERN": "x"})
    assert DbusCheck(definition, Settings()).expires_after is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'   string "plain \xc3\xa4"', '   string "plain ä"'),
        (b"\x1b[31mred\x00", r"\x1b[31mred\x00"),
        (b"\xff\xfe", r"\xff\xfe"),
        (f"a {TOKEN} b".encode(), "a (token) b"),
        (b"x" * 5000, "x" * 2048 + "..."),
    ],
)
def test_lines_are_shown_harmless_and_short(line: bytes, shown: str) -> None:
    assert readable(line) == shown
