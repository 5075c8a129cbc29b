"""A small HTTP server that does exactly what a test says, and remembers every request."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Request:
    """*connection* numbers the connections from 1."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Answer:
    status: int = 204
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpServer:
    """
    A context manager; :attr:`answer` may be replaced at any time. An answer of None: close without one.

    ``stop`` and ``start`` again use the same port.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Callable[[Request], Answer | None] = lambda _: Answer()
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._news = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def wait(self, test: Callable[[], bool], seconds: float = 60.0) -> None:
        """Until *test* holds; it is asked after each request."""
        with self._news:
            assert self._news.wait_for(test, seconds), [request.path for request in self.requests]

    def bodies(self, ending: str = "/alert") -> list[Any]:
        """What was posted to paths with this ending."""
        return [request.json for request in self.requests if request.path.endswith(ending)]

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                if owner._tls is not None:
                    self.request = owner._tls.wrap_socket(self.request, server_side=True)
                super().setup()
                with owner._news:
                    owner.connections += 1
                    self.number = owner.connections
                owner._sockets.add(self.request)

            def finish(self) -> None:
                owner._sockets.discard(self.request)
                super().finish()
                self.request.close()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.path, dict(self.headers), body, self.number)
                answer = owner.answer(request)
                with owner._news:
                    owner.requests.append(request)
                    owner._news.notify_all()
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away, or do not trust the certificate, are part of the tests."""
