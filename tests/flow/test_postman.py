"""The sender process by itself: TLS, a key of its own, what servers and watchers do; with real processes."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from mender_monitor_py import postman
from mender_monitor_py.devicekey import is_over
from mender_monitor_py.paths import Paths
from mender_monitor_py.protocol import MAX_BODY, Reply, Setup, encode
from mender_monitor_py.senderprocess import SenderProcess
from mender_monitor_py.settings import Settings
from mender_monitor_py.transport import target
from mender_monitor_py.wire import ALERT_PATH
from tests.fakes.certificates import Authority, server_context
from tests.fakes.http_server import Answer, HttpServer, Request
from tests.fakes.posting import BODY, mender_conf, post, with_process
from tests.fakes.private_bus import PrivateBus
from tests.fakes.update_client import UpdateClient


@pytest.fixture
def server() -> Any:
    with HttpServer() as server:
        yield server


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def _own_key(paths: Paths, key: Any = None) -> Settings:
    """Own-key mode: a key in a file, an identity script."""
    pem = (key or ed25519.Ed25519PrivateKey.generate()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_file, script = paths.root / "key.pem", paths.root / "identity"
    key_file.write_bytes(pem)
    script.write_text("#!/bin/sh\necho what it tells the log >&2\necho mac=00:11\n")
    script.chmod(0o755)
    return Settings(device_key=str(key_file), device_identity=str(script))


def accepting(request: Request) -> Answer:
    """A server that gives a token to everybody."""
    if request.path.endswith("/auth_requests"):
        return Answer(200, b"the-token", {"Content-Type": "application/jwt"})
    return Answer()


def _tls(paths: Paths, context: ssl.SSLContext, **conf: Any) -> tuple[Reply, HttpServer]:
    with HttpServer(context) as server:
        server.answer = accepting
        mender_conf(paths, ServerURL=server.url, **conf)
        (reply,) = post(paths, _own_key(paths))
    return reply, server


def test_the_servers_certificate_is_verified_with_the_configured_authority(
    paths: Paths, authority: Authority
) -> None:
    context = server_context(authority.issue("good", "127.0.0.1"))
    reply, _ = _tls(paths, context, ServerCertificate=str(authority.certificate))
    assert reply.status == 204


def test_the_servers_own_certificate_may_be_the_configured_one(paths: Paths, authority: Authority) -> None:
    pair = authority.issue("own", "127.0.0.1")
    reply, _ = _tls(paths, server_context(pair), ServerCertificate=str(pair.certificate))
    assert reply.status == 204


@pytest.mark.parametrize("conf", [{}, {"SkipVerify": True}, {"ServerCertificate": "/nonexistent"}])
def test_an_unknown_certificate_is_refused_whatever_is_configured(
    paths: Paths, authority: Authority, conf: dict[str, Any]
) -> None:
    reply, server = _tls(paths, server_context(authority.issue("unknown", "127.0.0.1")), **conf)
    assert reply.wait == "server"
    assert "certificate" in reply.error.lower()
    assert server.requests == []


def test_a_certificate_for_another_name_is_refused(paths: Paths, authority: Authority) -> None:
    context = server_context(authority.issue("other.example", "127.0.0.2"))
    reply, server = _tls(paths, context, ServerCertificate=str(authority.certificate))
    assert reply.wait == "server"
    assert "certificate" in reply.error.lower()
    assert server.requests == []


def test_the_clients_certificate_is_shown(paths: Paths, authority: Authority) -> None:
    context = server_context(authority.issue("mtls", "127.0.0.1"), clients=authority.certificate)
    client = authority.issue("device")
    conf: dict[str, Any] = {"ServerCertificate": str(authority.certificate)}
    reply, _ = _tls(paths, context, **conf)
    assert reply.wait == "server"
    https = {"Certificate": str(client.certificate), "Key": str(client.key)}
    reply, _ = _tls(paths, context, **conf, HttpsClient=https)
    assert reply.status == 204


def test_a_client_key_that_does_not_fit_is_said(
    paths: Paths, authority: Authority, capfd: pytest.CaptureFixture[str]
) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    https = {"Certificate": str(one.certificate), "Key": str(other.key)}
    reply, _ = _tls(paths, server_context(authority.issue("x", "127.0.0.1")), HttpsClient=https)
    assert reply.wait == "setup"
    assert "PRIVATE KEY" not in reply.error + "".join(capfd.readouterr())


def test_one_connection_where_the_server_keeps_it(paths: Paths, server: HttpServer) -> None:
    server.answer = accepting
    mender_conf(paths, ServerURL=server.url)
    replies = post(paths, _own_key(paths), times=10)
    assert [reply.status for reply in replies] == [204] * 10
    assert server.connections == 1


# With the device's own key


def _verified(request: Request) -> bool:
    """Check the signature as the server does."""
    fields = request.json
    key = serialization.load_pem_public_key(fields["pubkey"].encode())
    signature = base64.b64decode(request.headers["X-MEN-Signature"])
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, request.body)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, request.body, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, request.body, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "ecdsa"])
def test_authentication_requests_are_signed_as_the_server_checks_them(
    paths: Paths, server: HttpServer, kind: str
) -> None:
    key: Any = {
        "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    }[kind]()
    server.answer = accepting
    mender_conf(paths, ServerURL=server.url, TenantToken="tenant")
    replies = post(paths, _own_key(paths, key), times=2)
    assert [reply.status for reply in replies] == [204, 204]
    asked, *posted = server.requests
    assert asked.path == "/api/devices/v1/authentication/auth_requests"
    assert asked.headers["Content-Type"] == "application/json"
    assert _verified(asked)
    assert asked.json["id_data"] == '{"mac":"00:11"}'
    assert asked.json["tenant_token"] == "tenant"
    assert [request.token for request in posted] == ["the-token", "the-token"]


def test_a_device_that_waits_to_be_accepted(
    paths: Paths, server: HttpServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda request: Answer(401, request.body)
    mender_conf(paths, ServerURL=server.url, TenantToken="tenant-secret")
    (reply,) = post(paths, _own_key(paths))
    assert reply.wait == "token"
    assert "accept it" in reply.error
    server.answer = lambda request: Answer(500, request.body)
    (reply,) = post(paths, _own_key(paths))
    assert "500" in reply.error
    assert "tenant-secret" not in reply.error + "".join(capfd.readouterr())


def test_the_next_server_is_tried_when_one_is_away(paths: Paths, server: HttpServer) -> None:
    with HttpServer() as away:
        url = away.url
    server.answer = accepting
    mender_conf(paths, Servers=[{"ServerURL": url}, {"ServerURL": server.url}])
    replies = post(paths, _own_key(paths), times=2)
    assert [reply.status for reply in replies] == [204, 204]


def test_a_token_that_is_about_to_end_is_renewed_before(paths: Paths, server: HttpServer) -> None:
    def answer(request: Request) -> Answer:
        if request.path == ALERT_PATH:
            return Answer()
        claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 10}).encode()).rstrip(b"=")
        return Answer(200, b"header." + claims + b".signature")

    server.answer = answer
    mender_conf(paths, ServerURL=server.url)
    replies = post(paths, _own_key(paths), times=2)
    assert [reply.requests for reply in replies] == [2, 2]


@pytest.mark.parametrize("token", ["", "a.b.c", "x", "a.e30.c", "a.W10.c", "a.eyJleHAiOiAieCJ9.c"])
def test_a_token_whose_end_is_not_known_is_used(token: str) -> None:
    assert not is_over(token, 1e12)


@pytest.mark.parametrize(
    ("key", "identity", "reason"),
    [
        ("no key", "echo mac=1", "not a private key"),
        (None, "exit 3", "failed with 3"),
        (None, "echo nothing", "not key=value"),
        (None, "exec /nonexistent", "is not there or cannot be run"),
        (None, "yes", "prints too much"),
    ],
)
def test_a_setup_that_cannot_work_is_said(
    paths: Paths, server: HttpServer, key: str | None, identity: str, reason: str
) -> None:
    mender_conf(paths, ServerURL=server.url)
    settings = _own_key(paths)
    if key is not None:
        Path(settings.device_key).write_text(key)
    Path(settings.device_identity).write_text(f"#!/bin/sh\n{identity}\n")
    (reply,) = post(paths, settings)
    assert reply.wait == "setup"
    assert reason in reply.error


def test_no_server_and_no_key_file_are_said(paths: Paths) -> None:
    (reply,) = post(paths, _own_key(paths))
    assert "ServerURL" in reply.error
    (reply,) = post(paths, Settings(device_key="/nonexistent"))
    assert "/nonexistent" in reply.error


# What servers, proxies and watchers do


def test_an_endless_answer_is_read_up_to_a_bound(paths: Paths, server: HttpServer) -> None:
    server.answer = lambda request: (
        accepting(request) if request.path != ALERT_PATH else Answer(500, b"\xff" * 5_000_000)
    )
    mender_conf(paths, ServerURL=server.url)
    (reply,) = post(paths, _own_key(paths))
    assert reply.status == 500
    assert reply.body == "\\xff" * MAX_BODY


def test_redirects_are_not_followed(paths: Paths, server: HttpServer) -> None:
    """
    Whoever can redirect would get the token.
    """
    server.answer = lambda request: (
        accepting(request) if request.path != ALERT_PATH else Answer(307, b"", {"Location": "/elsewhere"})
    )
    mender_conf(paths, ServerURL=server.url)
    (reply,) = post(paths, _own_key(paths))
    assert reply.status == 307
    assert {request.path for request in server.requests} == {
        ALERT_PATH,
        "/api/devices/v1/authentication/auth_requests",
    }


def test_the_environments_proxy_is_used_but_not_for_this_machine(
    paths: Paths, server: HttpServer, private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    mender_conf(paths, ServerURL="http://mender.invalid")
    server.answer = lambda request: (
        Answer(200, b"the-token") if request.path.endswith("auth_requests") else Answer()
    )
    (reply,) = post(paths, _own_key(paths))
    assert reply.status == 204
    assert server.requests[-1].path == f"http://mender.invalid{ALERT_PATH}"
    with UpdateClient("cpp", server.url):
        (reply,) = post(paths)
    assert server.requests[-1].path == ALERT_PATH


@pytest.mark.parametrize(
    ("alert_url", "to", "expected"),
    [
        ("", "alert", "https://s/api/devices/v1/devicemonitor/alert"),
        ("", "config", "https://s/api/devices/v1/devicemonitor/config"),
        ("/other/alert", "alert", "https://s/other/alert"),
        ("/other/alert", "config", "https://s/other/config"),
        ("https://t:1/x/alert", "alert", "https://t:1/x/alert"),
        ("https://t:1/x/alert", "config", "https://t:1/x/config"),
        ("https://t/x", "config", "https://t/api/devices/v1/devicemonitor/config"),
    ],
)
def test_where_it_goes(alert_url: str, to: str, expected: str) -> None:
    assert target(alert_url, "https://s/", to) == expected


def test_other_settings_count_from_the_next_post_on(paths: Paths, server: HttpServer) -> None:
    server.answer = accepting
    mender_conf(paths, ServerURL=server.url)
    settings = [_own_key(paths)]

    async def run() -> list[Reply]:
        link = SenderProcess(paths, lambda: settings[0])
        try:
            first = await link.post("alert", BODY)
            settings[0] = replace(settings[0], alert_url="/other/alert")
            return [first, await link.post("alert", BODY)]
        finally:
            await link.close()

    assert [reply.status for reply in asyncio.run(run())] == [204, 204]
    assert [request.path for request in server.requests if "auth" not in request.path] == [
        ALERT_PATH,
        "/other/alert",
    ]


def test_what_was_set_right_counts_at_the_next_attempt(paths: Paths, server: HttpServer) -> None:
    """
    Another address in mender.conf, while the same sender process goes on trying.
    """
    with HttpServer() as away:
        url = away.url
    server.answer = accepting
    mender_conf(paths, ServerURL=url)

    async def run(link: SenderProcess) -> list[Reply]:
        replies = [await link.post("alert", BODY) for _ in range(2)]
        process = link._child
        mender_conf(paths, ServerURL=server.url)
        replies.append(await link.post("alert", BODY))
        assert link._child is process
        return replies

    replies = with_process(paths, run, _own_key(paths))
    assert [(reply.wait, reply.status) for reply in replies] == [("server", 0), ("server", 0), (None, 204)]


def test_a_reload_reads_everything_again(paths: Paths, server: HttpServer) -> None:
    """
    The settings are the same ones, but another key is where they say.
    """
    server.answer = accepting
    mender_conf(paths, ServerURL=server.url)
    settings = [_own_key(paths)]

    async def run() -> None:
        link = SenderProcess(paths, lambda: settings[0])
        try:
            await link.post("alert", BODY)
            settings[0] = _own_key(paths)
            await link.post("alert", BODY)
        finally:
            await link.close()

    asyncio.run(run())
    first, second = [request.json["pubkey"] for request in server.requests if "auth" in request.path]
    assert first != second


def test_a_process_that_ended_is_started_again(paths: Paths, server: HttpServer) -> None:
    server.answer = accepting
    mender_conf(paths, ServerURL=server.url)

    async def run(link: SenderProcess) -> list[Reply]:
        first = await link.post("alert", BODY)
        assert link._child is not None
        link._child.kill()
        await link._child.wait()
        second = await link.post("alert", BODY)
        return [first, second if second.status else await link.post("alert", BODY)]

    replies = with_process(paths, run, _own_key(paths))
    assert [reply.status for reply in replies] == [204, 204]


def test_the_units_socket(paths: Paths, server: HttpServer) -> None:
    """
    It is used where there is one, as with systemd's Accept=yes: a process has each connection as its stdin.
    """
    server.answer = accepting
    mender_conf(paths, ServerURL=server.url)
    paths.run.mkdir(parents=True)
    accepted: list[subprocess.Popen[bytes]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(paths.sender_socket))
        listener.listen()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                accepted.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "mender_monitor_py.postman"],
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        cwd=Path(postman.__file__).parents[1],
                    )
                )

        thread = threading.Thread(target=accept)
        thread.start()
        (reply,) = post(paths, _own_key(paths))
        thread.join()
    assert reply.status == 204
    assert [process.wait(30) for process in accepted] == [0]
    (reply,) = post(paths, _own_key(paths))  # nobody listens there any more
    assert reply.status == 204


@pytest.mark.parametrize(
    "requests",
    [
        [b"garbage\n"],
        [b"[]\n"],
        [encode({"do": "post", "to": "alert", "body": []})],  # before the setup
        [encode({"do": "setup", "unknown": 1})],
        [b"x" * 1_000_000] * 9,
    ],
)
def test_a_watcher_that_talks_nonsense_is_not_listened_to(requests: Sequence[bytes]) -> None:
    ours, theirs = socket.socketpair()

    def talk() -> None:
        with ours:
            try:
                for request in requests:
                    ours.sendall(request)
            except ConnectionError:
                pass

    thread = threading.Thread(target=talk)
    thread.start()
    with theirs, pytest.raises(ValueError):
        postman.serve(theirs)
    thread.join()


def test_the_end_of_the_socket_is_the_end_of_the_process() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(encode(Setup().message()))
    ours.close()
    with theirs:
        postman.serve(theirs)


def test_started_by_hand_it_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mender_monitor_py.postman"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=Path(postman.__file__).parents[1],
    )
    assert done.returncode == 2
    assert b"mender-monitord" in done.stderr
