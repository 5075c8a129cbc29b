"""The sender process beside the update client: real processes, a real bus, real HTTP."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mender_monitor_py.paths import Paths
from mender_monitor_py.protocol import NotSent, Reply
from mender_monitor_py.senderprocess import SenderProcess
from mender_monitor_py.updateclient import UpdateClient as Credentials
from mender_monitor_py.wire import ALERT_PATH
from tests.fakes.http_server import Answer, HttpServer
from tests.fakes.posting import BODY, post, with_process
from tests.fakes.private_bus import PrivateBus
from tests.fakes.update_client import Generation, UpdateClient

GENERATIONS: list[Generation] = ["direct", "go", "cpp"]


@pytest.fixture
def server() -> Any:
    with HttpServer() as server:
        yield server


@pytest.mark.parametrize("generation", GENERATIONS)
def test_posts_carry_the_update_clients_token(
    paths: Paths, private_bus: PrivateBus, server: HttpServer, generation: Generation
) -> None:
    with UpdateClient(generation, server.url) as client:
        replies = post(paths, times=3)
    assert [reply.status for reply in replies] == [204, 204, 204]
    assert [(request.path, request.json, request.token) for request in server.requests] == [
        (ALERT_PATH, BODY, "token-1")
    ] * 3
    assert server.requests[0].headers["Content-Type"] == "application/json"
    assert server.requests[0].headers["Connection"] == "close"
    assert client.fetches == 1
    assert not client.aborted


@pytest.mark.parametrize("generation", ["go", "cpp"])
def test_another_programs_fetch_moves_the_proxy_and_nothing_fails(
    paths: Paths, private_bus: PrivateBus, server: HttpServer, generation: Generation
) -> None:
    with UpdateClient(generation, server.url) as client:

        async def run(link: SenderProcess) -> list[Reply]:
            first = await link.post("alert", BODY)
            await asyncio.to_thread(client.authenticate)
            return [first, await link.post("alert", BODY)]

        replies = with_process(paths, run)
    assert [reply.status for reply in replies] == [204, 204]
    assert [request.token for request in server.requests] == ["token-1", "token-2"]


def test_a_proxy_that_moves_under_a_request_is_followed(private_bus: PrivateBus, server: HttpServer) -> None:
    with UpdateClient("cpp", server.url) as client:
        client.authenticate()
        credentials = Credentials()
        old = credentials.current()
        client.authenticate()
        new = credentials.moved(old)
        assert new is not None
        assert (new.token, new.server) == ("token-2", client.url)
        assert credentials.moved(new) is None
        credentials.close()


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("refusal", [Answer(401), Answer(403, b'{"error":"token expired"}')])
def test_a_refused_token_is_renewed_once(
    paths: Paths, private_bus: PrivateBus, server: HttpServer, generation: Generation, refusal: Answer
) -> None:
    server.answer = lambda request: refusal if request.token == "token-1" else Answer()
    with UpdateClient(generation, server.url) as client:
        (reply,) = post(paths)
    assert reply.status == 204
    assert reply.requests == 2
    assert client.fetches == 2


def test_a_device_that_is_refused_with_a_fresh_token_is_not_tried_again(
    paths: Paths, private_bus: PrivateBus, server: HttpServer
) -> None:
    server.answer = lambda _: Answer(401, b'{"error":"unauthorized"}')
    with UpdateClient("cpp", server.url) as client:
        (reply,) = post(paths)
    assert (reply.status, reply.requests, client.fetches) == (401, 2, 2)


def test_a_missing_addon_does_not_renew_the_token(
    paths: Paths, private_bus: PrivateBus, server: HttpServer
) -> None:
    server.answer = lambda _: Answer(403, b'{"error":"operation requires addon: monitor"}')
    with UpdateClient("go", server.url) as client:
        (reply,) = post(paths)
    assert (reply.status, client.fetches) == (403, 1)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_device_that_is_not_accepted_has_no_token(
    paths: Paths, private_bus: PrivateBus, server: HttpServer, generation: Generation
) -> None:
    with UpdateClient(generation, server.url) as client:
        client.fetch = "rejected"
        (reply,) = post(paths)
    assert reply.wait == "token"
    assert "not accepted" in reply.error
    assert server.requests == []


def test_a_client_that_cannot_even_ask_is_not_waited_for(private_bus: PrivateBus, server: HttpServer) -> None:
    with UpdateClient("cpp", server.url) as client:
        client.fetch = "refused"
        with pytest.raises(NotSent, match="cannot ask"):
            _close_after(Credentials(), lambda credentials: credentials.current())


def test_a_fetch_that_never_ends_is_given_up(private_bus: PrivateBus, server: HttpServer) -> None:
    with UpdateClient("cpp", server.url) as client:
        client.fetch = "silent"
        with pytest.raises(NotSent, match=r"within 0\.2 s"):
            _close_after(Credentials(fetch_timeout=0.2), lambda credentials: credentials.current())


def _close_after(credentials: Credentials, work: Callable[[Credentials], object]) -> None:
    try:
        work(credentials)
    finally:
        credentials.close()


def test_a_bus_that_stands_still_for_a_moment_is_waited_for(
    private_bus: PrivateBus, server: HttpServer
) -> None:
    """As that of a busy device, for longer than the bus's library does by itself."""
    with UpdateClient("cpp", server.url):
        private_bus.signal(signal.SIGSTOP)
        moves_on = threading.Timer(1.5, private_bus.signal, [signal.SIGCONT])
        moves_on.start()
        try:
            _close_after(Credentials(), lambda credentials: credentials.current())
        finally:
            moves_on.join()


def test_no_update_client_and_no_bus_are_said(paths: Paths, private_bus: PrivateBus) -> None:
    (reply,) = post(paths)
    assert reply.wait == "token"
    assert "not running" in reply.error
    private_bus.stop()
    (reply,) = post(paths)
    assert reply.wait == "token"
    assert "bus cannot be reached" in reply.error


def test_a_restarted_bus_and_client_are_found_again(
    paths: Paths, private_bus: PrivateBus, server: HttpServer
) -> None:
    client = UpdateClient("cpp", server.url)
    client.start()

    async def run(link: SenderProcess) -> list[Reply]:
        first = await link.post("alert", BODY)
        client.stop()
        private_bus.restart()
        client.start()
        return [first, await link.post("alert", BODY)]

    try:
        replies = with_process(paths, run)
    finally:
        client.stop()
    assert [reply.status for reply in replies] == [204, 204]


def test_a_server_that_is_away(paths: Paths, private_bus: PrivateBus) -> None:
    with HttpServer() as server:
        url = server.url
    with UpdateClient("cpp", url):
        (reply,) = post(paths)
        assert reply.wait == "server"
    with UpdateClient("go", url):
        (reply,) = post(paths)
        assert reply.wait == "server"
    with UpdateClient("direct", url):
        (reply,) = post(paths)
        assert reply.wait == "server"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, b'{"error":"internal error","request_id":"1"}'),
        Answer(503, b"", {"Retry-After": "5"}),
        Answer(500),
    ],
)
def test_a_server_that_fails_is_not_one_that_is_away(
    paths: Paths, private_bus: PrivateBus, server: HttpServer, answer: Answer
) -> None:
    server.answer = lambda _: answer
    with UpdateClient("cpp", server.url):
        (reply,) = post(paths)
    assert (reply.wait, reply.status) == (None, answer.status)


def test_the_servers_wish_to_wait_comes_through(
    paths: Paths, private_bus: PrivateBus, server: HttpServer
) -> None:
    server.answer = lambda _: Answer(429, b'{"error":"too many requests"}', {"Retry-After": "17"})
    with UpdateClient("cpp", server.url):
        (reply,) = post(paths)
    assert (reply.status, reply.retry_after) == (429, 17.0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_token_is_in_no_output(
    paths: Paths,
    private_bus: PrivateBus,
    server: HttpServer,
    generation: Generation,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """
    Not even where the server repeats it, the token is refused, or it is damaged.
    """
    server.answer = lambda request: Answer(500, f"bad token {request.token}".encode())
    with UpdateClient(generation, server.url) as client:
        replies = post(paths)
        server.answer = lambda request: Answer(401, request.token.encode())
        replies += post(paths)
        server.answer = lambda _: None
        replies += post(paths)
        client.token = "token-7\r\nX-Injected: 1"
        replies += post(paths)
    shown = "".join(map(repr, replies)) + "".join(capfd.readouterr())
    assert "token-" not in shown
    assert "(secret)" in shown
    assert replies[-1].error.startswith("the update client's token is not one")
