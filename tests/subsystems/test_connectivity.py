from __future__ import annotations

import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from mender_monitor_py.errors import DefinitionError, UnknownError
from mender_monitor_py.host.runner import Completed
from mender_monitor_py.model import CheckId
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.connectivity import ConnectivityCheck, judge, request, why

CHECK = CheckId("connectivity", "example")


class Teapot(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        self.send_response(418)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), Teapot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(url, interface=""):
    done = subprocess.run(
        request(url, interface), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60
    )
    return why(Completed(done.returncode, done.stdout))


def test_any_answer_to_a_head_request_is_an_answer(server):
    assert ask(server) == ""
    assert Teapot.asked == ["/"]


def test_the_interface_is_the_one_that_is_asked_for(server):
    assert "no-such-if0" in ask(server, "no-such-if0")


def test_nobody_there_is_a_failure_with_its_reason():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))

        assert "onnect" in ask(f"http://127.0.0.1:{unused.getsockname()[1]}/")


def test_without_curl_the_state_is_unknown():
    with pytest.raises(UnknownError, match="curl is not installed"):
        why(Completed(127, b"curl: not found"))


def test_a_request_that_had_to_be_ended_is_a_failure():
    assert why(Completed(None, b""))


@pytest.mark.parametrize(("failure", "level"), [("refused", "CRITICAL"), ("", "OK")])
def test_the_alert_is_named_as_in_the_original(failure, level):
    seen = judge("https://a.example/", failure, "CRITICAL")

    assert (seen.level, seen.name) == (level, "Unable to connect to the address 'https://a.example/'")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("URL", "ftp://host/"),
        ("URL", "file:///etc/passwd"),
        ("URL", "-o/etc/passwd"),
        ("URL", "https://"),
        ("URL", "http://[::1"),
        ("INTERFACE", "--config"),
        ("INTERFACE", "a b"),
        ("INTERVAL", "0"),
        ("INTERVAL", "soon"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(name, text):
    values = {"CONNECTIVITY_URL": "https://a.example/", f"CONNECTIVITY_{name}": text}

    with pytest.raises(DefinitionError, match=f"CONNECTIVITY_{name}"):
        ConnectivityCheck(Definition(CHECK, values), Settings())
