"""The connection to the bus, on a real dbus-daemon: calls, signals, restarts, and peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, new_method_call, new_method_return, new_signal
from jeepney.io.blocking import open_dbus_connection

from mender_monitor_py.busformat import Header
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.bus import BusError, Signal, SystemBus
from mender_monitor_py.host.busconnection import BusLostError
from mender_monitor_py.host.busmonitor import BusMonitor
from mender_monitor_py.host.inotify import Inotify
from tests.fakes.bus_peer import LAMP, BusPeer
from tests.fakes.private_bus import NO_MONITORS, PrivateBus

DRIVER = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
PATIENCE = 60.0


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await test

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def system_bus(address: str) -> AsyncIterator[SystemBus]:
    inotify = Inotify()
    bus = SystemBus(inotify, address)
    try:
        yield bus
    finally:
        await bus.aclose()
        inotify.close()


async def refused(bus: SystemBus, reason: str) -> None:
    """Calls fail for *reason*, as soon as the first attempt to reach the bus has."""
    told = ""
    while not re.search(reason, told):
        with pytest.raises(BusLostError) as caught:
            await bus.call(*DRIVER, "GetId", timeout=0.1)
        told = str(caught.value)


async def connections(bus: SystemBus) -> asyncio.Queue[bool]:
    """The news of *bus*'s connection; the first one is taken."""
    news: asyncio.Queue[bool] = asyncio.Queue()
    bus.on_connection(news.put_nowait)
    assert await news.get()
    return news


def test_a_call_is_answered(private_bus: PrivateBus) -> None:
    async def test() -> None:
        async with system_bus(private_bus.address) as bus:
            names = await bus.call(*DRIVER, "ListNames")
            assert "org.freedesktop.DBus" in names[0]
            assert await bus.call(*DRIVER, "NameHasOwner", "s", ("org.example.Nobody",)) == (False,)

    run(test())


def test_an_error_reply_has_its_name_and_its_reason(private_bus: PrivateBus) -> None:
    async def test() -> None:
        async with system_bus(private_bus.address) as bus:
            with pytest.raises(BusError, match="owner") as caught:
                await bus.call(*DRIVER, "GetNameOwner", "s", ("org.example.Nobody",))
            assert caught.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"

    run(test())


def test_a_call_that_is_not_answered_has_a_time_limit(private_bus: PrivateBus) -> None:
    async def test() -> None:
        with BusPeer(private_bus.address) as silent:
            async with system_bus(private_bus.address) as bus:
                await bus.call(*DRIVER, "GetId")  # it is connected
                with pytest.raises(UnknownError, match=r"did not answer Switch within 0\.\d+ s"):
                    await bus.call(silent.name, "/", "org.example.Lamp", "Switch", timeout=0.3)

    run(test())


def test_without_a_bus_a_call_says_where_none_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with system_bus(f"unix:path={tmp_path}/nowhere/bus") as bus:
            with pytest.raises(BusLostError, match="nowhere/bus"):
                await bus.call(*DRIVER, "ListNames", timeout=0.2)

    run(test())


@pytest.mark.parametrize("address", ["tcp:host=localhost,port=1", "nonsense", "unix:tmpdir=/tmp", ""])
def test_an_address_that_is_none_is_an_error_not_a_crash(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")

    async def test() -> None:
        async with system_bus(address) as bus:
            with pytest.raises(BusLostError, match="bus"):
                await bus.call(*DRIVER, "ListNames", timeout=0.2)

    run(test())


def test_an_abstract_socket_is_an_address_too() -> None:
    name = f"mender-monitor-test-{os.getpid()}"

    async def test() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"\0{name}")
        listener.listen()
        listener.setblocking(False)
        with listener:
            async with system_bus(f"unix:abstract={name}") as bus:
                bus.on_connection(lambda connected: None)
                peer, _ = await asyncio.get_running_loop().sock_accept(listener)
                with peer:
                    peer.setblocking(False)
                    hello = await asyncio.get_running_loop().sock_recv(peer, 100)
                    assert hello.startswith(b"\0AUTH EXTERNAL ")

    run(test())


async def signals(bus: SystemBus, rule: str) -> tuple[asyncio.Queue[Signal], Callable[[], None]]:
    queue: asyncio.Queue[Signal] = asyncio.Queue()
    undo = bus.watch(rule, queue.put_nowait)
    await bus.call(*DRIVER, "GetId")
    return queue, undo


def test_a_signal_reaches_those_who_watch_for_it(private_bus: PrivateBus) -> None:
    async def test() -> None:
        with BusPeer(private_bus.address) as lamp:
            async with system_bus(private_bus.address) as bus:
                on, _ = await signals(bus, "type='signal',interface='org.example.Lamp',arg0='on'")
                every, _ = await signals(bus, "interface='org.example.Lamp'")
                lamp.signal("Switched", "s", "off")
                lamp.signal("Switched", "s", "on")
                signal = await on.get()
                assert signal == Signal(
                    lamp.name, "/org/example/Lamp", "org.example.Lamp", "Switched", "s", ("on",)
                )
                assert [(await every.get()).body for _ in range(2)] == [("off",), ("on",)]
                assert on.empty()

    run(test())


def test_a_callback_that_raises_harms_nobody_else(private_bus: PrivateBus) -> None:
    async def test() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

        def fail(signal: Signal) -> None:
            raise RuntimeError("a bug")

        with BusPeer(private_bus.address) as lamp:
            async with system_bus(private_bus.address) as bus:
                bus.watch("interface='org.example.Lamp'", fail)
                queue, _ = await signals(bus, "interface='org.example.Lamp'")
                lamp.signal()
                lamp.signal()
                await queue.get()
                await queue.get()
        assert len(complaints) == 2

    run(test())


def test_nobody_speaks_for_another(private_bus: PrivateBus) -> None:
    """Neither by a signal to us directly, nor in the name of a service that it does not own."""

    async def test() -> None:
        with BusPeer(private_bus.address) as lamp, BusPeer(private_bus.address) as liar:
            async with system_bus(private_bus.address) as bus:
                queue, _ = await signals(bus, "sender='org.example.LampService',interface='org.example.Lamp'")
                ours = next(iter(bus.connections)).name
                liar.signal("Switched", "s", "lie", to=ours)
                liar.ask_bus("GetId")
                lamp.own("org.example.LampService")
                lamp.signal("Switched", "s", "truth")
                assert (await queue.get()).body == ("truth",)
                lamp.ask_bus("ReleaseName", "s", "org.example.LampService")
                liar.own("org.example.LampService")
                lamp.signal("Switched", "s", "no longer")
                lamp.ask_bus("GetId")
                liar.signal("Switched", "s", "now it is")
                assert (await queue.get()).body == ("now it is",)

    run(test())


def test_the_bus_comes_back_and_signals_go_on(private_bus: PrivateBus) -> None:
    async def test() -> None:
        async with system_bus(private_bus.address) as bus:
            with BusPeer(private_bus.address) as lamp:
                queue, _ = await signals(bus, "sender='org.example.LampService',member='Switched'")
                news = await connections(bus)
                lamp.own("org.example.LampService")
                lamp.signal()
                await queue.get()
            for _ in range(3):
                private_bus.restart()
                assert [await news.get(), await news.get()] == [False, True]
                with BusPeer(private_bus.address) as lamp:
                    lamp.own("org.example.LampService")
                    lamp.signal()
                    await queue.get()

    run(test())


def test_a_connection_that_is_lost_is_made_again_with_all_it_knew(private_bus: PrivateBus) -> None:
    """The bus goes on, and so do the owners of names."""

    async def test() -> None:
        async with system_bus(private_bus.address) as bus:
            with BusPeer(private_bus.address) as lamp:
                lamp.own("org.example.LampService")
                queue, _ = await signals(bus, "sender='org.example.LampService',member='Switched'")
                news = await connections(bus)
                for _ in range(2):
                    next(iter(bus.connections)).close()
                    assert [await news.get(), await news.get()] == [False, True]
                    lamp.signal()
                    await queue.get()

    run(test())


def test_a_bus_that_is_not_there_yet_is_found_when_it_starts(tmp_path: Path) -> None:
    """Its folder neither, as when the machine boots."""

    async def test() -> None:
        folder = tmp_path / "run"
        async with system_bus(f"unix:path={folder}/bus") as bus:
            news: asyncio.Queue[bool] = asyncio.Queue()
            bus.on_connection(news.put_nowait)
            with pytest.raises(BusLostError):
                await bus.call(*DRIVER, "GetId", timeout=0.5)
            folder.mkdir()
            with PrivateBus(folder):
                assert await news.get()

    run(test())


def test_match_rules_are_counted_and_given_back(private_bus: PrivateBus) -> None:
    """The bus's own count of our rules, over many watches that come and go."""

    async def test() -> None:
        async with system_bus(private_bus.address) as bus:
            seen: list[Signal] = []
            rule = "sender='org.example.LampService',member='Switched'"
            first = bus.watch(rule, seen.append)
            for _ in range(200):
                bus.watch(rule, seen.append)()
            for number in range(200):
                bus.watch(f"member='M{number}'", seen.append)()
            first()
            first()
            names = await bus.call(*DRIVER, "ListNames")
            assert bus._rules == {}
            assert bus._owners == {}
            ours = next(iter(bus.connections)).name
            assert ours in names[0]
            with BusPeer(private_bus.address) as peer:
                stats = DBusAddress(DRIVER[1], DRIVER[0], "org.freedesktop.DBus.Debug.Stats")
                reply = peer.connection.send_and_get_reply(
                    new_method_call(stats, "GetConnectionStats", "s", (ours,)), timeout=PATIENCE
                )
                assert reply.body[0]["MatchRules"] == ("u", 0)

    run(test())


def test_a_flood_to_us_is_not_decoded_and_calls_go_on(private_bus: PrivateBus) -> None:
    async def test() -> None:
        with BusPeer(private_bus.address) as flooder:
            async with system_bus(private_bus.address) as bus:
                await bus.call(*DRIVER, "GetId")
                ours = next(iter(bus.connections)).name
                for _ in range(2000):
                    flooder.signal("Drop", "as", ["x"] * 20, to=ours)
                flooder.signal("Drop", "ay", bytes(6_000_000), to=ours)
                assert await bus.call(*DRIVER, "NameHasOwner", "s", ("x.y",)) == (False,)

    run(test())


GARBAGE = {
    "not D-Bus": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "another version": b"l\4\0\2" + bytes(60),
    "a size that cannot be": b"l\4\0\1" + b"\xff" * 60,
    "no name for us": b"",
}


def empty_reply() -> bytes:
    """A reply to the first call, which asks for our name, without one."""
    call = new_method_call(DBusAddress(DRIVER[1], DRIVER[0], DRIVER[2]), "Hello")
    call.header.serial = 1
    raw: bytes = new_method_return(call).serialise(serial=1)
    return raw


async def pretend_bus(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, garbage: bytes) -> None:
    """Authenticates whoever comes, then talks nonsense."""
    with contextlib.closing(writer):
        await reader.readuntil(b"\r\n")
        writer.write(b"OK 1234deadbeef\r\n")
        await reader.readuntil(b"BEGIN\r\n")
        writer.write(garbage)
        await writer.drain()
        await reader.read()


@pytest.mark.parametrize("what", GARBAGE)
def test_a_bus_that_talks_nonsense_is_left_and_tried_again(tmp_path: Path, what: str) -> None:
    async def test() -> None:
        path = tmp_path / "bus"
        server = await asyncio.start_unix_server(
            lambda r, w: pretend_bus(r, w, GARBAGE[what] or empty_reply()), path
        )
        async with system_bus(f"unix:path={path}") as bus:
            await refused(bus, r"D-Bus|message can be|unpack")
            news: asyncio.Queue[bool] = asyncio.Queue()
            bus.on_connection(news.put_nowait)
            server.close()
            path.unlink(missing_ok=True)  # from Python 3.13 on it goes with the server
            with PrivateBus(tmp_path):
                assert await news.get()

    run(test())


def test_a_bus_that_refuses_us_says_so(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.readuntil(b"\r\n")
            writer.write(b"REJECTED ANONYMOUS\r\n")
            await writer.drain()
            await reader.read()

    async def test() -> None:
        server = await asyncio.start_unix_server(refuse, tmp_path / "bus")
        async with server, system_bus(f"unix:path={tmp_path}/bus") as bus:
            await refused(bus, "REJECTED")

    run(test())


@contextlib.asynccontextmanager
async def monitoring(
    bus: SystemBus, *rules: str
) -> AsyncIterator[tuple[asyncio.Queue[Header], asyncio.Queue[str]]]:
    messages: asyncio.Queue[Header] = asyncio.Queue()
    states: asyncio.Queue[str] = asyncio.Queue()
    monitor = BusMonitor(bus, rules, lambda raw, header: messages.put_nowait(header))
    task = asyncio.get_running_loop().create_task(monitor.run(states.put_nowait))
    try:
        assert await states.get() == ""
        yield messages, states
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_a_monitor_sees_what_is_for_others_and_nothing_of_ours(private_bus: PrivateBus) -> None:
    async def test() -> None:
        with BusPeer(private_bus.address) as lamp, BusPeer(private_bus.address) as user:
            async with system_bus(private_bus.address) as bus, monitoring(bus, "") as (messages, _):
                bus.watch("member='Own'", lambda signal: None)
                await bus.call(*DRIVER, "ListNames")
                lamp.signal("Switched", "s", "private", to=user.name)
                lamp.ask_bus("NameHasOwner", "s", "x.y")
                header = await messages.get()
                assert (header.member, header.sender, header.destination) == (
                    "Switched",
                    lamp.name,
                    user.name,
                )
                # as for the bus itself: by then our own connections have their names
                assert (await messages.get()).member == "NameHasOwner"

    run(test())


def test_a_monitor_takes_messages_that_carry_descriptors_and_keeps_none(private_bus: PrivateBus) -> None:
    async def test() -> None:
        async with (
            system_bus(private_bus.address) as bus,
            monitoring(bus, "interface='org.example.Lamp'") as (
                messages,
                _,
            ),
        ):
            open_before = len(list(Path("/proc/self/fd").iterdir()))
            with open_dbus_connection(private_bus.address, enable_fds=True, auth_timeout=30) as lamp:
                for _ in range(50):
                    lamp.send_message(new_signal(LAMP, "Switched", "h", (0,)))
                headers = [await messages.get() for _ in range(50)]
            assert {header.signature for header in headers} == {"h"}
            assert len(list(Path("/proc/self/fd").iterdir())) == open_before

    run(test())


def test_a_monitor_follows_the_bus_over_its_restarts(private_bus: PrivateBus) -> None:
    async def test() -> None:
        async with (
            system_bus(private_bus.address) as bus,
            monitoring(bus, "interface='org.example.Lamp'") as (messages, states),
        ):
            for _ in range(2):
                private_bus.restart()
                while await states.get():
                    pass
                with BusPeer(private_bus.address) as lamp:
                    lamp.signal()
                    assert (await messages.get()).member == "Switched"

    run(test())


def test_a_monitor_that_is_not_allowed_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        with PrivateBus(tmp_path, NO_MONITORS) as private:
            async with system_bus(private.address) as bus:
                with pytest.raises(BusError, match="AccessDenied"):
                    await BusMonitor(bus, [], lambda raw, header: None).run(lambda reason: None)

    run(test())


def test_of_a_huge_message_a_monitor_gets_the_beginning(private_bus: PrivateBus) -> None:
    async def test() -> None:
        sizes: asyncio.Queue[int] = asyncio.Queue()
        async with system_bus(private_bus.address) as bus:
            monitor = BusMonitor(
                bus, ["interface='org.example.Lamp'"], lambda raw, _: sizes.put_nowait(len(raw))
            )
            ready = asyncio.Event()
            task = asyncio.get_running_loop().create_task(monitor.run(lambda reason: ready.set()))
            await ready.wait()
            with BusPeer(private_bus.address) as lamp:
                await asyncio.to_thread(lamp.signal, "Switched", "ay", bytes(20_000_000))
                lamp.signal()
                assert await sizes.get() == 131_072
                assert await sizes.get() < 300
            task.cancel()
            await asyncio.wait([task])

    run(test())
