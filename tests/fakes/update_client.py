"""
A stand-in for Mender's update client on a bus of the tests' own: ``io.mender.Authentication1``.

It does what the real ones were seen to do, of three generations:

- ``direct`` (2.5 to 3.1): the server's own address;
- ``go`` (3.2 to 3.5): a proxy that checks token and path, and answers 503 when the server is away; a fetch
  that fails for want of a server keeps the token and moves the proxy;
- ``cpp`` (from 4.0): a proxy that closes the connection after each answer without saying so, and without an
  answer when the server is away; a fetch that fails clears what is cached; a call without an interface header
  is its end.
"""

from __future__ import annotations

import http.client
import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import unwrap_msg

NAME = "io.mender.AuthenticationManager"
PATH = "/io/mender/AuthenticationManager"
INTERFACE = "io.mender.Authentication1"

Generation = Literal["direct", "go", "cpp"]
Fetch = Literal["token", "rejected", "offline", "silent", "refused"]


class UpdateClient:
    """
    A context manager. *upstream* is the server's address.

    :attr:`fetch` is how the next fetches end; :attr:`fetches` counts them; :attr:`aborted` tells that a
    call made the newer client abort. Tokens are ``token-1``, ``token-2`` and so on.
    """

    def __init__(self, generation: Generation, upstream: str) -> None:
        self.generation = generation
        self.upstream = upstream
        self.fetch: Fetch = "token"
        self.fetches = 0
        self.aborted = False
        self.token = ""
        self.url = ""
        self._numbers = itertools.count(1)
        self._connection: DBusConnection | None = None
        self._thread: threading.Thread | None = None
        self._proxy: _Proxy | None = None

    def start(self) -> None:
        """Take the name on the bus. What is cached is gone, as in a fresh process."""
        self._connection = open_dbus_connection("SYSTEM", auth_timeout=30)
        unwrap_msg(self._connection.send_and_get_reply(message_bus.RequestName(NAME)))
        self._thread = threading.Thread(target=self._serve, args=(self._connection,))
        self._thread.start()

    def stop(self) -> None:
        if self._connection is not None and self._thread is not None:
            self._connection.sock.shutdown(2)
            self._thread.join()
            self._connection.close()
        self._connection = None
        self.token = self.url = ""
        self._end_proxy()

    def authenticate(self) -> None:
        """As if another program had asked for a fetch."""
        self._fetched()

    def expire(self) -> None:
        """Forget the token without telling anybody."""
        self.token = self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self, connection: DBusConnection) -> None:
        while True:
            try:
                message = connection.receive()
            except OSError:
                return
            if message.header.message_type is not MessageType.method_call:
                continue
            if HeaderFields.interface not in message.header.fields and self.generation == "cpp":
                self.aborted = True  # std::logic_error
                connection.sock.shutdown(2)
                return
            self._called(connection, message)

    def _called(self, connection: DBusConnection, message: Message) -> None:
        match message.header.fields.get(HeaderFields.member):
            case "GetJwtToken":
                connection.send(new_method_return(message, "ss", (self.token, self.url)))
            case "FetchJwtToken":
                self.fetches += 1
                connection.send(new_method_return(message, "b", (self.fetch != "refused",)))
                if self.fetch not in ("silent", "refused"):
                    self._fetched()
            case _:
                connection.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod"))

    def _fetched(self) -> None:
        self._end_proxy()  # every fetch closes the old one
        if self.fetch == "token":
            self.token = f"token-{next(self._numbers)}"
        elif self.fetch == "rejected" or self.generation == "cpp":
            self.token = ""
        if self.token and self.generation != "direct":
            self._proxy = _Proxy(self)
            self.url = self._proxy.url
        else:
            self.url = self.upstream if self.token else ""
        if self._connection is not None:
            emitter = DBusAddress(PATH, interface=INTERFACE)
            self._connection.send(new_signal(emitter, "JwtTokenStateChange", "ss", (self.token, self.url)))

    def _end_proxy(self) -> None:
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()


class _Proxy:
    """The client's HTTP forwarder, on a port of its own."""

    def __init__(self, client: UpdateClient) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if client.generation == "go":
                    # This one keeps the connection, but it must not outlive the test.
                    self.close_connection = True
                    if not self.path.startswith("/api/devices/"):
                        return self._answer(404, b"", {"Connection": "close"})
                    if self.headers.get("Authorization") != f"Bearer {client.token}":
                        text = b"invalid JWT token in Authorization header"
                        return self._answer(401, text, {"Connection": "close"})
                try:
                    self._forward(body)
                except OSError:
                    if client.generation == "go":
                        self._answer(503, b"", {"Connection": "close"})
                self.close_connection = True
                return None

            def _forward(self, body: bytes) -> None:
                host = urlsplit(client.upstream).netloc
                connection = http.client.HTTPConnection(host, timeout=30)
                headers = {**dict(self.headers), "Host": host, "User-Agent": "Mender/5.1.0"}
                try:
                    connection.request("POST", self.path, body, headers)
                    answer = connection.getresponse()
                    text = answer.read()
                finally:
                    connection.close()
                passed = {name: value for name, value in answer.getheaders() if name == "Retry-After"}
                self._answer(answer.status, text, passed)

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""
