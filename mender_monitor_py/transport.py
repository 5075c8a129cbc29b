"""HTTP to the server: connections, TLS, time limits, and the retry with a fresh token."""

from __future__ import annotations

import json
import logging
import os
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from mender_monitor_py import __version__, wire
from mender_monitor_py.credentials import Credentials, Grant
from mender_monitor_py.protocol import MAX_BODY, NotSent, Reply, Setup
from mender_monitor_py.wire import Answer

log = logging.getLogger(__name__)

_TIMEOUT = httpx.Timeout(30.0, connect=10.0, pool=5.0)
_LONGEST = 90.0  # seconds for one request in all, so that a server cannot keep us by answering slowly
_KEEP_ALIVE = 60.0


class Http:
    """
    Posts, and nothing else.

    Certificates are always verified; redirects are not followed, the answer is read up to a bound. The
    update client's proxy on this machine is spoken to without a proxy and with one connection a request: it
    closes the connection after each answer, without saying so.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._local: httpx.Client | None = None
        self._remote: httpx.Client | None = None
        self.requests = 0

    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """
        The answer; secrets that it repeats are taken out. :attr:`requests` counts them.

        Raises NotSent when there is none.
        """
        deadline = time.monotonic() + _LONGEST
        self.requests += 1
        secrets = (headers.get("Authorization", "").removeprefix("Bearer "), self._setup.tenant_token)
        try:
            client, more = self._client(url)
            with client.stream("POST", url, headers={**headers, **more}, content=body) as response:
                text = _read(response, deadline)
                asked = wire.retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
                return Answer(response.status_code, _without(secrets, text), asked)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise NotSent(f"the server's address is not one: {_origin(url)}", "setup") from None
        except httpx.TransportError as error:
            raise NotSent(
                f"{_origin(url)}: {_without(secrets, str(error)) or type(error).__name__}", "server"
            ) from None

    def close(self) -> None:
        """Close the connections."""
        for client in (self._local, self._remote):
            if client is not None:
                client.close()

    def _client(self, url: str) -> tuple[httpx.Client, dict[str, str]]:
        if _is_local(url):
            if self._local is None:
                # A context without certificates, as there is no TLS: loading them costs most of the start.
                bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                self._local = _make_client(bare, httpx.Limits(), trust_env=False)
            # With a key of our own it is the server itself that is on this machine.
            return self._local, {} if self._setup.device_key else {"Connection": "close"}
        if self._remote is None:
            limits = httpx.Limits(max_connections=2, keepalive_expiry=_KEEP_ALIVE)
            try:
                self._remote = _make_client(tls_context(self._setup), limits, trust_env=True)
            except (ValueError, ImportError) as error:
                raise NotSent(
                    f"the proxy that the environment names cannot be used: {error}", "setup"
                ) from None
        return self._remote, {}


class Post:
    """Posts to the device API with the device's token."""

    def __init__(self, setup: Setup, http: Http, credentials: Credentials) -> None:
        self._setup = setup
        self._http = http
        self._credentials = credentials

    def post(self, to: str, body: Any) -> Reply:
        """
        What became of *body*, posted to ``alert`` or ``config``.

        A token that is not taken is renewed once.
        """
        before = self._http.requests
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            answer = self._posted(self._credentials.current(), to, content)
            if wire.wants_fresh_token(answer):
                log.info("the server did not take the token (%d): renewing it", answer.status)
                answer = self._posted(self._credentials.renewed(), to, content)
            if self._is_proxys_own(answer):
                raise NotSent("the update client's proxy does not reach the server (503)", "server")
        except NotSent as error:
            return Reply(error=str(error), wait=error.wait, requests=self._http.requests - before)
        requests = self._http.requests - before
        return Reply(answer.status, answer.body, answer.retry_after, requests)

    def close(self) -> None:
        """Close the connections, and forget the token."""
        self._http.close()
        self._credentials.close()

    def _is_proxys_own(self, answer: Answer) -> bool:
        """The older client's proxy answers for a server that is away; Mender's own errors have a number."""
        with_proxy = not self._setup.device_key and not self._setup.alert_url
        own = "request_id" not in answer.body and answer.retry_after is None
        return answer.status == 503 and with_proxy and own

    def _posted(self, grant: Grant, to: str, content: bytes) -> Answer:
        while True:
            headers = {"Authorization": f"Bearer {grant.token}", "Content-Type": "application/json"}
            try:
                return self._http.post(target(self._setup.alert_url, grant.server, to), headers, content)
            except NotSent as error:
                other = self._credentials.moved(grant) if error.wait == "server" else None
                if other is None:
                    raise
                grant = other


def target(alert_url: str, server: str, to: str) -> str:
    """
    Where ``alert`` or ``config`` is posted to.

    *alert_url* is the setting: empty, a path on the *server*, or an entire address; the configuration goes
    beside the alerts.
    """
    path = wire.ALERT_PATH if to == "alert" else wire.CONFIG_PATH
    if not alert_url:
        return server.rstrip("/") + path
    entire = alert_url if "://" in alert_url else f"{server.rstrip('/')}/{alert_url.lstrip('/')}"
    if to == "alert":
        return entire
    parts = urlsplit(entire)
    if parts.path.endswith("/alert"):
        path = parts.path.removesuffix("alert") + "config"
    return f"{parts.scheme}://{parts.netloc}{path}"


def tls_context(setup: Setup) -> ssl.SSLContext:
    """The system's authorities and the configured one; the client's certificate. Raises NotSent."""
    context = ssl.create_default_context()
    # As the update client does: the configured certificate may be the server's own, and old ones that newer
    # versions of Python are strict about go on working.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if setup.server_certificate:
        try:
            context.load_verify_locations(cadata=setup.server_certificate)
        except (ssl.SSLError, ValueError) as error:
            log.warning("ServerCertificate cannot be used: %s", error)
    if setup.client_certificate:
        try:
            with _memory_file(setup.client_certificate + "\n" + setup.client_key) as path:
                context.load_cert_chain(path, password=_no_passphrase)
        except (ssl.SSLError, ValueError, OSError) as error:
            raise NotSent(f"the client's certificate and key cannot be used: {error}", "setup") from None
    return context


class _memory_file:
    """*text* under a path, as OpenSSL wants one, but in memory only."""

    def __init__(self, text: str) -> None:
        self._fd = os.memfd_create("client-key", os.MFD_CLOEXEC)
        os.write(self._fd, text.encode())

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, which is not supported")


def _make_client(context: ssl.SSLContext, limits: httpx.Limits, *, trust_env: bool) -> httpx.Client:
    return httpx.Client(
        verify=context,
        limits=limits,
        timeout=_TIMEOUT,
        trust_env=trust_env,
        follow_redirects=False,
        headers={
            "User-Agent": f"mender-monitor-py/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
    )


def _read(response: httpx.Response, deadline: float) -> str:
    """The start of the body, as text whatever it holds."""
    data = b""
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > MAX_BODY or time.monotonic() > deadline:
            break
    return data[:MAX_BODY].decode(errors="backslashreplace")


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "(secret)") if secret else text
    return text


def _is_local(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _origin(url: str) -> str:
    """The address without what may be secret in it."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "(not an address)"
