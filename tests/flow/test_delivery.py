"""What a delivery does with the server's answers; the server is a list of replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py.delivery import LONG_PAUSE, MAX_BATCH, Delivery, Obstacle, Pause, only_one
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import Alert, Details, Stamp, Subject
from mender_monitor_py.outbox import SENT, SET_ASIDE, Limits, Outbox
from mender_monitor_py.protocol import Reply
from mender_monitor_py.settings import Settings

ADDON = '{"error":"operation requires addon: monitor"}'
SETTINGS = Settings(alert_requests_per_minute=0)


class Server:
    """A link whose replies a function of the posted names makes."""

    is_open = False

    def __init__(self, reply: Callable[[list[str]], Reply]) -> None:
        self.reply = reply
        self.posts: list[list[str]] = []
        self.bodies: list[Any] = []

    async def post(self, to: str, body: Any) -> Reply:
        names = [alert["name"] for alert in body]
        self.posts.append(names)
        self.bodies += body
        return self.reply(names)

    async def close(self) -> None:
        pass

    @property
    def received(self) -> list[str]:
        return [name for names in self.posts for name in names]


def always(status: int, **fields: Any) -> Callable[[list[str]], Reply]:
    return lambda _: Reply(status, **fields)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "outbox.db", Limits(count=2000), Clock())
    yield outbox
    outbox.close()


def put(outbox: Outbox, count: int, description: str = "") -> None:
    alerts = [Alert(str(n), "CRITICAL", Subject("s", "t", "x"), Details(description)) for n in range(count)]
    outbox.put(alerts, Clock().now())


def drain(outbox: Outbox, server: Server, settings: Settings = SETTINGS) -> Pause | None:
    return asyncio.run(Delivery(outbox, server, Clock(), settings, chance=lambda: 1.0).drain())


def test_a_thousand_alerts_are_fifty_requests_in_order_each_once(outbox: Outbox) -> None:
    put(outbox, 1000)
    server = Server(always(204))
    assert drain(outbox, server) is None
    assert len(server.posts) == 50
    assert server.received == [str(n) for n in range(1000)]
    assert outbox.counts().waiting == 0
    assert drain(outbox, server) is None
    assert len(server.posts) == 50


def test_a_batch_fits_into_the_servers_limit(outbox: Outbox) -> None:
    put(outbox, 6, description="x" * 200_000)
    server = Server(always(204))
    assert drain(outbox, server) is None
    assert server.received == [str(n) for n in range(6)]
    assert {len(names) for names in server.posts} == {MAX_BATCH // 200_300}


@pytest.mark.parametrize("status", [400, 413])
def test_the_bad_records_alone_are_set_aside_and_the_others_arrive(outbox: Outbox, status: int) -> None:
    put(outbox, 50)
    bad = {"7", "8", "33"}
    server = Server(lambda names: Reply(status, "bad\nthing") if bad.intersection(names) else Reply(204))
    assert drain(outbox, server) is None
    assert [record.alert.name for record in outbox.records(SET_ASIDE)] == ["7", "8", "33"]
    assert {record.reason for record in outbox.records(SET_ASIDE)} == {f"{status} bad\\nthing"}
    assert [record.alert.name for record in outbox.records(SENT)] == [
        str(n) for n in range(50) if str(n) not in bad
    ]


@pytest.mark.parametrize(
    ("reply", "obstacle", "seconds", "reason"),
    [
        (Reply(500), Obstacle.BUSY, 60, "500"),
        (Reply(401), Obstacle.BUSY, 60, "401"),
        (Reply(429, retry_after=1234.0), Obstacle.BUSY, 1234, "429"),
        (Reply(503), Obstacle.SERVER, 60, "503"),
        (Reply(503, retry_after=90.0), Obstacle.BUSY, 90, "503"),
        (Reply(403, ADDON), Obstacle.REFUSED, LONG_PAUSE, "no monitor add-on"),
        (Reply(403), Obstacle.REFUSED, LONG_PAUSE, "403"),
        (Reply(404), Obstacle.REFUSED, LONG_PAUSE, "no monitoring service"),
        (Reply(error="away", wait="server"), Obstacle.SERVER, 60, "away"),
        (Reply(error="no token", wait="token"), Obstacle.TOKEN, 60, "no token"),
        (Reply(error="no key", wait="setup"), Obstacle.SETUP, 60, "no key"),
    ],
)
def test_what_is_in_the_way_keeps_the_alerts(
    outbox: Outbox, reply: Reply, obstacle: Obstacle, seconds: float, reason: str
) -> None:
    put(outbox, 30)
    server = Server(lambda _: reply)
    pause = drain(outbox, server)
    assert pause is not None
    assert (pause.obstacle, pause.seconds) == (obstacle, seconds)
    assert reason in pause.reason
    assert len(server.posts) == 1
    assert outbox.counts().waiting == 30


def test_backing_off_doubles_and_starts_anew_after_a_success(outbox: Outbox) -> None:
    put(outbox, 1)
    server = Server(always(500))
    delivery = Delivery(outbox, server, Clock(), SETTINGS, chance=lambda: 1.0)

    async def run() -> list[float]:
        waits = []
        for status in (500, 500, 500, 204, 500):
            server.reply = always(status)
            pause = await delivery.drain()
            waits.append(pause.seconds if pause else 0)
            if pause is None:
                put(outbox, 1)
        return waits

    assert asyncio.run(run()) == [60, 120, 240, 0, 60]


def test_what_the_server_has_is_not_sent_again_when_that_cannot_be_written_down(outbox: Outbox) -> None:
    put(outbox, 3)

    class Full(Outbox):
        full = True

        def sent(self, seqs: Any) -> None:
            if self.full:
                raise OutboxError("the disk is full")
            super().sent(seqs)

    outbox.__class__ = Full
    server = Server(always(204))
    delivery = Delivery(outbox, server, Clock(), SETTINGS)

    async def run() -> list[Pause | None]:
        pauses = [await delivery.drain(), await delivery.drain()]
        Full.full = False
        return [*pauses, await delivery.drain()]

    first, second, third = asyncio.run(run())
    assert first is not None
    assert (first.obstacle, first.reason) == (Obstacle.OUTBOX, "the disk is full")
    assert second == first
    assert third is None
    assert server.posts == [["0", "1", "2"]]


def test_the_times_are_those_of_the_events_though_the_clock_was_set_later(outbox: Outbox) -> None:
    now = Clock().now()
    alert = Alert("a", "CRITICAL", Subject("s", "t", "x"))
    outbox.put([alert], Stamp(now.boot_id, now.boottime - 100, 1.0, False))
    server = Server(always(204))
    assert drain(outbox, server) is None
    (body,) = server.bodies
    from datetime import datetime

    assert datetime.fromisoformat(body["timestamp"]).timestamp() == pytest.approx(now.wall - 100, abs=5)


def test_the_configuration_is_not_pushed_again_when_it_is_invalid(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(always(400, body="no"))
    delivery = Delivery(outbox, server, Clock(), SETTINGS)
    assert asyncio.run(delivery.push([{"name": "a.sh"}])) is None
    assert "refuses the configuration" in caplog.text
    server.reply = always(500)
    assert asyncio.run(delivery.push([{"name": "a.sh"}])) is not None


def test_requests_are_spaced(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    put(outbox, 60)
    waits: list[float] = []
    moment = [0.0]

    class SlowClock(Clock):
        def boottime(self) -> float:
            return moment[0]

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        moment[0] += seconds

    monkeypatch.setattr("mender_monitor_py.delivery.asyncio.sleep", sleep)
    server = Server(always(204, requests=2))
    settings = Settings(alert_batch_size=1, alert_requests_per_minute=30)
    asyncio.run(Delivery(outbox, server, SlowClock(), settings).drain())
    assert len(server.posts) == 60
    # two requests each: the answers to 60 posts take about four minutes
    assert 3 * 60 < sum(waits) < 6 * 60


def test_only_one_process_sends(tmp_path: Path) -> None:
    with only_one(tmp_path) as free:
        assert free is None
        with only_one(tmp_path) as taken:
            assert taken is not None
            assert taken.obstacle is Obstacle.OTHER
    with only_one(tmp_path) as free:
        assert free is None
