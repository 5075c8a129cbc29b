"""
``mender-monitor-sender``: the process that speaks to the server, for the watcher.

Its standard input and output are one socket. It ends when the watcher closes that, or after a time without
a request. It reads no file of ours and needs no rights.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator

from mender_monitor_py import __version__
from mender_monitor_py.credentials import Credentials
from mender_monitor_py.protocol import IDLE, MAX_REQUEST, Setup, decode, encode
from mender_monitor_py.transport import Http, Post

log = logging.getLogger(__name__)

_USAGE = "this program is started by mender-monitord, with a socket as its standard input"


def main() -> int:
    """Serve the socket that is file descriptor 0."""
    if sys.argv[1:] in (["--version"], ["--help"], ["-h"]):
        sys.stdout.write(f"mender-monitor-sender {__version__}\n{_USAGE}\n")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        peer = socket.socket(fileno=os.dup(0))
    except OSError:
        log.error(_USAGE)
        return 2
    with peer:
        peer.settimeout(IDLE)
        try:
            serve(peer)
        except (TimeoutError, ConnectionError):
            pass  # nobody asks any more
        except ValueError as error:
            log.error("the watcher said something that is no request: %s", error)
            return 1
    return 0


def serve(peer: socket.socket) -> None:
    """Answer each request in turn. Raises ValueError for what is none, OSError when the peer is gone."""
    post: Post | None = None
    for line in _lines(peer):
        message = decode(line)
        match message.get("do"):
            case "setup":
                if post is not None:
                    post.close()
                post = _set_up(Setup.from_message(message))
            case "post" if post is not None:
                peer.sendall(encode(post.post(str(message.get("to")), message.get("body")).message()))
            case other:
                raise ValueError(f"unknown request {other!r:.40}")


def _set_up(setup: Setup) -> Post:
    for name, value in setup.proxies.items():
        os.environ[name] = value
    # A SOCKS proxy would need a library that is not there; httpx refuses to start with one.
    for name in ("all_proxy", "ALL_PROXY"):
        os.environ.pop(name, None)
    http = Http(setup)
    return Post(setup, http, _credentials(setup, http))


def _credentials(setup: Setup, http: Http) -> Credentials:
    """Each way has a library of its own, loaded only where that way is taken."""
    if setup.device_key:
        from mender_monitor_py.devicekey import DeviceKey

        return DeviceKey(setup, http)
    from mender_monitor_py.updateclient import UpdateClient

    return UpdateClient()


def _lines(peer: socket.socket) -> Iterator[bytes]:
    waiting = b""
    while chunk := peer.recv(65_536):
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = waiting + lines[0]
            yield from lines
            waiting = rest
        else:
            waiting += rest
        if len(waiting) > MAX_REQUEST:
            raise ValueError(f"a request of more than {MAX_REQUEST} bytes")


if __name__ == "__main__":
    sys.exit(main())
