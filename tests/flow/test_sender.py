"""When the sender sends: wake-ups, pauses, news of the network and of the update client, crashes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py import sender as module
from mender_monitor_py.delivery import only_one
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import Alert, CheckId, Stamp, Subject
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.protocol import Reply
from mender_monitor_py.sender import Drained, Sender, drain_once
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from tests.fakes.http_server import Answer, HttpServer, Request
from tests.fakes.private_bus import PrivateBus
from tests.fakes.update_client import UpdateClient

SETTINGS = Settings(alert_requests_per_minute=0)
AWAY = Reply(error="the server is away", wait="server")
NO_TOKEN = Reply(error="no token", wait="token")
PATIENCE = 30.0


class FakeLink:
    """Replies as it is told, and lets a test wait for posts."""

    def __init__(self) -> None:
        self.reply: Callable[[str], Reply] = lambda _: Reply(204)
        self.posts: list[tuple[str, list[str]]] = []
        self.is_open = False
        self._news = asyncio.Event()

    async def post(self, to: str, body: Any) -> Reply:
        self.is_open = True
        self.posts.append((to, [entry["name"] for entry in body]))
        self._news.set()
        return self.reply(to)

    async def close(self) -> None:
        self.is_open = False
        self._news.set()

    async def until(self, test: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not test():
                self._news.clear()
                await self._news.wait()


class SettableClock(Clock):
    """The real clock; whether the wall clock is known is up to the test."""

    known = True

    def now(self) -> Stamp:
        now = super().now()
        return Stamp(now.boot_id, now.boottime, now.wall if self.known else now.boottime, self.known)


class Rig:
    """A running sender."""

    def __init__(self, paths: Paths, settings: Settings = SETTINGS) -> None:
        self.clock = SettableClock()
        self.outbox = Outbox(paths.outbox, Limits(), self.clock)
        self.host = Host(paths, self.clock)
        self.link = FakeLink()
        self.changes = asyncio.Event()
        self.sender = Sender(
            self.outbox, settings, paths, self.host, link=self.link, changed=self.changes.set
        )

    def put(self, *names: str) -> None:
        self.outbox.put([alert(name) for name in names], self.clock.now())
        self.sender.wake()

    @property
    def alerts(self) -> list[str]:
        return [name for to, names in self.link.posts if to == "alert" for name in names]

    async def until_obstacle(self, obstacle: str) -> dict[str, Any]:
        """The status, once it names that."""
        async with asyncio.timeout(PATIENCE):
            while (status := self.sender.status())["obstacle"] != obstacle:
                self.changes.clear()
                await self.changes.wait()
        return status


def alert(name: str) -> Alert:
    return Alert(name, "CRITICAL", Subject("s", "t", "x"))


def scenario(paths: Paths, work: Callable[[Rig], Awaitable[None]], settings: Settings = SETTINGS) -> None:
    async def run() -> None:
        rig = Rig(paths, settings)
        task = asyncio.create_task(rig.sender.run())
        try:
            await work(rig)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await rig.host.aclose()
            rig.outbox.close()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.2)
    monkeypatch.setattr(module, "_SPACING", 0.1)


def test_alerts_of_before_the_start_are_sent_and_then_the_process_ends(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        await rig.link.until(lambda: rig.alerts == ["a", "b"])
        await rig.link.until(lambda: not rig.link.is_open)
        status = rig.sender.status()
        assert (status["state"], status["sent"]) == ("ready", 2)
        assert status["last_sent"] > 1e9
        json.dumps(status)

    paths.state.mkdir(parents=True)
    outbox = Outbox(paths.outbox, Limits(), Clock())
    outbox.put([alert("a"), alert("b")], Clock().now())
    outbox.close()
    scenario(paths, work)


def test_a_burst_shares_a_request(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHERING", 1.0)

    async def work(rig: Rig) -> None:
        rig.put("a")
        await rig.link.until(lambda: rig.alerts == ["a"])
        await rig.link.until(lambda: not rig.link.is_open)
        began = time.monotonic()
        for name in "bcdef":
            rig.put(name)
            await asyncio.sleep(0.02)
        took = time.monotonic() - began
        await rig.link.until(lambda: rig.alerts == list("abcdef"))
        assert len(rig.link.posts) <= 2 + took / module.GATHERING

    scenario(paths, work)


def test_nothing_is_done_while_nothing_waits(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        for _ in range(5):
            rig.sender.wake()
            await asyncio.sleep(0.15)
        assert rig.link.posts == []
        assert not (paths.state / "sender.lock").exists()

    scenario(paths, work)


def test_the_configuration_is_pushed_at_start_and_when_it_changes(paths: Paths) -> None:
    def pushes(rig: Rig) -> list[list[str]]:
        return [names for to, names in rig.link.posts if to == "config"]

    def check(name: str) -> Definition:
        return Definition(CheckId("service", name), {"SERVICE_NAME": name})

    async def work(rig: Rig) -> None:
        rig.sender.checks_changed([check("a")])
        await rig.link.until(lambda: pushes(rig) == [["a.sh"]])
        rig.sender.checks_changed([check("a")])
        rig.put("x")
        await rig.link.until(lambda: rig.alerts == ["x"])
        await rig.link.until(lambda: not rig.link.is_open)
        rig.sender.checks_changed([check("a"), check("b")])
        await rig.link.until(lambda: pushes(rig) == [["a.sh"], ["a.sh", "b.sh"]])

    scenario(paths, work)


def test_the_configuration_is_pushed_again_after_the_interval(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        rig.sender.checks_changed([])
        await rig.link.until(lambda: len(rig.link.posts) >= 3)
        assert {to for to, _ in rig.link.posts} == {"config"}

    scenario(paths, work, Settings(alert_requests_per_minute=0, confpush_interval=0.3))


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_without_configurations_gets_alerts_all_the_same(paths: Paths, status: int) -> None:
    async def work(rig: Rig) -> None:
        rig.link.reply = lambda to: Reply(204 if to == "alert" else status)
        rig.sender.checks_changed([])
        await rig.link.until(lambda: bool(rig.link.posts))
        for name in "abc":
            rig.put(name)
            await rig.link.until(lambda name=name: name in rig.alerts)  # type: ignore[misc]
        assert sum(to == "config" for to, _ in rig.link.posts) == 1

    scenario(paths, work)


def test_while_something_is_in_the_way_new_alerts_wait_with_the_others(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        rig.link.reply = lambda _: Reply(403, '{"error":"operation requires addon: monitor"}')
        rig.put("a")
        status = await rig.until_obstacle("refused")
        assert "add-on" in status["reason"]
        assert 3000 < status["next_try"] - rig.clock.now().wall <= 3600
        rig.put("b")
        rig.sender.server_maybe_back()
        await asyncio.sleep(0.4)
        assert len(rig.link.posts) == 1
        assert not rig.link.is_open  # no process for an hour of waiting
        rig.link.reply = lambda _: Reply(204)
        rig.sender.send_now()
        await rig.link.until(lambda: len(rig.link.posts) == 2)
        assert rig.alerts == ["a", "a", "b"]

    scenario(paths, work)


def test_other_settings_end_the_wait(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        rig.link.reply = lambda _: Reply(error="no such key", wait="setup")
        rig.put("a")
        await rig.until_obstacle("setup")
        rig.link.reply = lambda _: Reply(204)
        rig.sender.set_settings(SETTINGS)
        await rig.link.until(lambda: len(rig.link.posts) == 2)

    scenario(paths, work)


@pytest.mark.parametrize("reply", [AWAY, NO_TOKEN, Reply(503)])
def test_news_of_the_network_end_the_wait_for_the_server(paths: Paths, reply: Reply) -> None:
    async def work(rig: Rig) -> None:
        rig.link.reply = lambda _: reply
        rig.put("a")
        await rig.link.until(lambda: bool(rig.link.posts))
        rig.link.reply = lambda _: Reply(204)
        await rig.until_obstacle("token" if reply is NO_TOKEN else "server")
        rig.sender.server_maybe_back()
        await rig.link.until(lambda: len(rig.link.posts) == 2)
        assert rig.outbox.counts().waiting == 0 or await _settled(rig)

    scenario(paths, work)


async def _settled(rig: Rig) -> bool:
    await rig.until_obstacle("")
    return rig.outbox.counts().waiting == 0


def test_a_token_at_the_update_client_ends_the_wait(paths: Paths, private_bus: PrivateBus) -> None:
    async def work(rig: Rig) -> None:
        rig.link.reply = lambda _: NO_TOKEN
        rig.put("a")
        await rig.until_obstacle("token")
        await rig.host.bus.call(
            "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId"
        )  # subscribed now
        posts = len(rig.link.posts)
        client.fetch = "rejected"
        client.authenticate()
        await asyncio.sleep(0.3)
        assert len(rig.link.posts) == posts  # a fetch that failed is no news
        rig.link.reply = lambda _: Reply(204)
        client.fetch = "token"
        client.authenticate()
        await rig.link.until(lambda: len(rig.link.posts) == posts + 1)

    with UpdateClient("direct", "http://127.0.0.1:1") as client:
        scenario(paths, work)


def test_the_start_of_the_update_client_ends_the_wait(paths: Paths, private_bus: PrivateBus) -> None:
    client = UpdateClient("cpp", "http://127.0.0.1:1")

    async def work(rig: Rig) -> None:
        rig.link.reply = lambda _: NO_TOKEN
        rig.put("a")
        await rig.until_obstacle("token")
        await rig.host.bus.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId")
        rig.link.reply = lambda _: Reply(204)
        await asyncio.to_thread(client.start)
        await rig.link.until(lambda: len(rig.link.posts) == 2)

    try:
        scenario(paths, work)
    finally:
        client.stop()


def test_without_a_clock_the_first_alerts_wait_for_it(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        rig.clock.known = False
        rig.put("a")
        await rig.until_obstacle("clock")
        rig.sender.wake()
        rig.sender.server_maybe_back()
        await asyncio.sleep(0.3)
        assert rig.link.posts == []
        rig.clock.known = True
        rig.sender.wake()
        await rig.link.until(lambda: rig.alerts == ["a"])

    scenario(paths, work)


def test_the_wait_for_the_clock_has_an_end(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOCK_PATIENCE", 0.5)

    async def work(rig: Rig) -> None:
        rig.clock.known = False
        rig.put("a")
        await rig.link.until(lambda: rig.alerts == ["a"])

    scenario(paths, work)


def test_another_process_that_sends_is_waited_for(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        with only_one(paths.state):
            rig.put("a")
            await rig.until_obstacle("other")
            assert rig.link.posts == []
        rig.sender.send_now()
        await rig.link.until(lambda: rig.alerts == ["a"])

    paths.state.mkdir(parents=True)
    scenario(paths, work)


def test_an_outbox_that_cannot_be_read_is_said(paths: Paths) -> None:
    async def work(rig: Rig) -> None:
        rig.sender.wake()
        status = await rig.until_obstacle("outbox")
        assert "newer version" in status["reason"]

    import sqlite3

    paths.state.mkdir(parents=True)
    connection = sqlite3.connect(paths.outbox)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    scenario(paths, work)


# With the real sender process


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.answer = accepting
        yield server


def accepting(request: Request) -> Answer:
    return Answer(200, b"the-token") if request.path.endswith("/auth_requests") else Answer()


def own_key(paths: Paths, url: str) -> Settings:
    key, script = paths.root / "key.pem", paths.root / "identity"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    script.write_text("#!/bin/sh\necho mac=00:11\n")
    script.chmod(0o755)
    paths.mender_conf.parent.mkdir(parents=True)
    paths.mender_conf.write_text(json.dumps({"ServerURL": url}))
    return Settings(device_key=str(key), device_identity=str(script), alert_requests_per_minute=0)


def received(server: HttpServer) -> list[str]:
    return [entry["name"] for body in server.bodies() for entry in body]


class Real:
    """A sender that runs, with an outbox of its own."""

    def __init__(self, paths: Paths, settings: Settings) -> None:
        self._clock = Clock()
        self._changed = asyncio.Event()
        self.outbox, self.host = Outbox(paths.outbox, Limits(), self._clock), Host(paths, self._clock)
        self.sender = Sender(self.outbox, settings, paths, self.host, changed=self._changed.set)

    def put(self, *names: str) -> None:
        self.outbox.put([alert(name) for name in names], self._clock.now())

    async def until(self, test: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until *test* holds for the sender's status."""
        async with asyncio.timeout(60):
            while not test(self.sender.status()):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def sending(paths: Paths, settings: Settings) -> AsyncIterator[Real]:
    real = Real(paths, settings)
    task = asyncio.create_task(real.sender.run())
    try:
        yield real
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await real.host.aclose()
        real.outbox.close()


def test_what_waited_while_the_server_was_dark_arrives_in_order_once(
    paths: Paths, server: HttpServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = own_key(paths, server.url)
    server.stop()

    async def run() -> None:
        async with sending(paths, settings) as real:
            for n in range(45):
                real.put(str(n))
            real.sender.wake()
            await real.until(lambda status: status["obstacle"] == "server")
            server.start()
            real.sender.server_maybe_back()
            await real.until(lambda status: status["sent"] == 45)

    asyncio.run(run())
    assert received(server) == [str(n) for n in range(45)]
    assert "nothing is sent for now" in caplog.text
    assert "the-token" not in caplog.text + "".join(capfd.readouterr())


def test_the_newer_update_client_comes_back_with_the_server(
    paths: Paths, server: HttpServer, private_bus: PrivateBus
) -> None:
    """
    It has no token while it does not reach the server; another program's fetch then brings one.
    """
    settings = Settings(alert_requests_per_minute=0)

    async def run() -> None:
        async with sending(paths, settings) as real:
            real.put("a", "b")
            real.sender.wake()
            await real.until(lambda status: status["obstacle"] == "token")
            await real.host.bus.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId")
            client.fetch = "token"
            await asyncio.to_thread(client.authenticate)
            await real.until(lambda status: status["sent"] == 2)

    with UpdateClient("cpp", server.url) as client:
        client.fetch = "offline"
        asyncio.run(run())
    assert received(server) == ["a", "b"]
    assert not client.aborted


def test_the_queue_is_flushed_without_the_daemon(paths: Paths, server: HttpServer) -> None:
    settings = own_key(paths, server.url)
    outbox = Outbox(paths.outbox, Limits(), Clock())

    def flush() -> Drained:
        return asyncio.run(drain_once(outbox, settings, paths, Clock()))

    try:
        assert flush() == Drained(0, "")
        outbox.put([alert("a"), alert("b")], Clock().now())
        with only_one(paths.state):
            assert flush() == Drained(0, "another process is sending")
        server.stop()
        assert "127.0.0.1" in flush().problem
        server.start()
        assert flush() == Drained(2, "")
        assert received(server) == ["a", "b"]
    finally:
        outbox.close()


_WATCHER = """
import asyncio, sys
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.sender import Sender
from mender_monitor_py.settings import Settings

async def main():
    paths, clock = Paths.from_environment(), Clock()
    settings = Settings(
        device_key=sys.argv[1],
        device_identity=sys.argv[2],
        alert_requests_per_minute=0,
        default_alert_store_resend_interval_s=1,
    )
    await Sender(Outbox(paths.outbox, Limits(), clock), settings, paths, Host(paths, clock)).run()

asyncio.run(main())
"""


@pytest.mark.parametrize("victim", ["watcher", "sender"])
def test_kill_9_at_any_moment_loses_nothing_and_repeats_one_batch_at_most(
    paths: Paths, server: HttpServer, victim: str
) -> None:
    settings = own_key(paths, server.url)
    names = [str(n) for n in range(400)]
    outbox = Outbox(paths.outbox, Limits(), Clock())
    outbox.put([alert(name) for name in names], Clock().now())
    outbox.close()
    kills, randomly = 0, random.Random(11)
    process = _watcher(settings)
    try:
        for _ in range(4):
            posts = len(server.bodies()) + randomly.randrange(1, 4)
            server.wait(  # or all is there before they can be killed so often
                lambda posts=posts: len(server.bodies()) >= posts or set(received(server)) == set(names)  # type: ignore[misc]
            )
            if victim == "watcher":
                process.kill()
                process.wait()
                process = _watcher(settings)
                kills += 1
            elif child := _child(process.pid):
                os.kill(child, signal.SIGKILL)
                kills += 1
        server.wait(lambda: set(received(server)) == set(names))
    finally:
        process.terminate()
        process.wait()
    seen = received(server)
    assert kills
    assert sorted(set(seen), key=seen.index) == names
    assert len(server.bodies()) <= 20 + kills


def _watcher(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WATCHER, settings.device_key, settings.device_identity],
        cwd=Path(module.__file__).parents[1],
    )


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0
