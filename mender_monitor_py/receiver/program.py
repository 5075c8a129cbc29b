"""The command line of ``mender-monitor-receiver``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sqlite3
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from mender_monitor_py import __version__
from mender_monitor_py.receiver.api import Api, Options
from mender_monitor_py.receiver.faults import KINDS, REFUSE, SCOPES, Fault
from mender_monitor_py.receiver.store import Received, Store
from mender_monitor_py.receiver.validation import LEVELS, MAX_RECORDS, Limits

_EPILOG = f"""\
Switches, while it runs:
  GET, POST, DELETE /faults        {{"kind": "status", "status": 429, "retry_after": 30, "requests": 2}}
  GET /devices                     the devices that asked for authentication
  PUT /devices/ID/status           {{"status": "accepted"}}, or "pending", "rejected"
  DELETE /devices/ID/tokens        revoke what the device holds
  GET, POST /deployments           {{"artifact": "FILE", "name": "release-2", "device_types": ["pi"]}}
  DELETE /deployments/ID           abort it

Kinds of faults:
{chr(10).join(f"  {kind:<8} {meaning}" for kind, meaning in KINDS.items())}
Fields of a fault, all but "kind" optional: "to" ({", ".join(SCOPES)}), "requests" (how many; else until
it is reset), "seconds" (slow, refuse), "status", "retry_after" and "error" (status).

It is made for development and tests: whoever reaches it can read the alerts and turn the switches.
"""


class Server:
    """
    The listening receiver.

    A ``refuse`` fault closes the port for a while, or until it is reset, and opens the same again; the
    Unix socket stays.
    """

    def __init__(self, api: Api, host: str, port: int, tls: ssl.SSLContext | None, socket: str = "") -> None:
        self._api = api
        self._host, self.port, self._tls, self._socket = host, port, tls, socket
        # No access log: it would show what devices send.
        self._runner = web.AppRunner(api.application(), access_log=None)
        self._site: web.TCPSite | None = None
        self._reopening: asyncio.Task[None] | None = None
        api.refuse = self._refuse

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await self._runner.setup()
        await self._open()
        self.port = self._runner.addresses[0][1]
        if self._socket:
            await web.UnixSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.wait([self._reopening])
        self._api.faults.reset()
        await self._runner.cleanup()

    async def _open(self) -> None:
        self._site = web.TCPSite(
            self._runner, self._host, self.port, ssl_context=self._tls, reuse_address=True
        )
        await self._site.start()

    def _refuse(self) -> None:
        if self._reopening is None or self._reopening.done():
            self._reopening = asyncio.create_task(self._close_for_a_while())

    async def _close_for_a_while(self) -> None:
        assert self._site is not None
        faults = self._api.faults
        await self._site.stop()
        while (fault := faults.current) is not None and fault.kind == REFUSE:
            await faults.hold(fault.seconds)
            if faults.current is fault:
                faults.reset()
        await self._open()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT. Exits 1 when it cannot listen or open its files."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.cert) != bool(options.key):
        parser.error("--cert and --key belong together")
    if options.client_ca and not options.cert:
        parser.error("--client-ca needs --cert and --key")
    try:
        asyncio.run(_serve(options))
    except (OSError, ValueError, sqlite3.Error) as error:
        sys.exit(f"mender-monitor-receiver: {error}")


async def _serve(options: argparse.Namespace) -> None:
    store = Store(options.database, options.max_alerts)
    limits = Limits(options.max_records, tuple(options.levels.split(",")))
    judged = Options(
        token=options.token,
        open_to_all=options.open,
        pending=options.pending,
        token_seconds=options.token_seconds,
        limits=limits,
        artifacts=Path(options.artifacts) if options.artifacts else None,
    )
    api = Api(store, judged, _print if options.print else lambda received: None)
    if options.fault:
        api.faults.set(_initial_fault(options))
    server = Server(api, options.host, options.port, _tls(options), options.socket)
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    try:
        await server.start()
        _say(f"listening on {server.url}")
        await done.wait()
    finally:
        await server.stop()
        store.close()


def _initial_fault(options: argparse.Namespace) -> Fault:
    return Fault.from_json(
        {
            "kind": options.fault,
            "to": options.fault_to,
            "requests": options.fault_requests,
            "seconds": options.fault_seconds,
            "status": options.fault_status,
            "retry_after": options.fault_retry_after,
        }
    )


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.cert, options.key)
    if options.client_ca:
        context.load_verify_locations(options.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _print(received: Received) -> None:
    alert, subject = received.alert, received.alert.subject
    _say(f"{received.timestamp} {alert.level} {alert.name} ({subject.type} {subject.name}: {subject.status})")


def _say(text: str) -> None:
    """A line on standard output at once; what a device sent cannot start another or move the cursor."""
    sys.stdout.write("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mender-monitor-receiver",
        description="Takes alerts as the Mender server does, keeps and shows them. For tests.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", type=int, default=8080, help="port to listen on; 0: a free one, which is printed (8080)")
    add("--socket", default="", metavar="FILE", help="Unix socket to listen on as well; no fault closes it")
    add("--database", default="", metavar="FILE", help="SQLite file to keep everything in (memory)")
    add("--artifacts", default="", metavar="FOLDER", help="files that can be deployed to an update client")
    add("--print", action="store_true", help="print a line for each alert")
    add("--max-alerts", type=_above_zero, default=10_000, metavar="N", help="how many are kept (10000)")
    add("--max-records", type=_above_zero, default=MAX_RECORDS, metavar="N",
        help=f"how many one request may hold ({MAX_RECORDS})")  # fmt: skip
    add("--levels", default=",".join(LEVELS), help=f"levels that are accepted ({','.join(LEVELS)})")
    devices = parser.add_argument_group("devices")
    who = devices.add_mutually_exclusive_group()
    who.add_argument("--token", default="", help="accept this token alone, instead of those it gives out")
    who.add_argument("--open", action="store_true", help="ask for no token")
    who.add_argument("--pending", action="store_true", help="new devices wait to be accepted")
    devices.add_argument("--token-seconds", type=float, default=604_800, metavar="S",
                         help="how long a token is good for (604800)")  # fmt: skip
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--cert", metavar="FILE", help="certificate chain, PEM")
    tls.add_argument("--key", metavar="FILE", help="its private key, PEM")
    tls.add_argument("--client-ca", metavar="FILE", help="demand a client certificate of this CA")
    faults = parser.add_argument_group("faults from the start")
    faults.add_argument("--fault", choices=[kind for kind in KINDS if kind != REFUSE], help="see below")
    faults.add_argument("--fault-to", choices=SCOPES, default="all", help="which requests (all)")
    faults.add_argument("--fault-requests", type=int, metavar="N", help="for so many (until reset)")
    faults.add_argument("--fault-seconds", type=float, default=1.0, metavar="S", help="the delay (1)")
    faults.add_argument("--fault-status", type=int, default=503, metavar="CODE", help="the answer (503)")
    faults.add_argument("--fault-retry-after", default="", metavar="VALUE", help="its Retry-After (none)")
    return parser


def _above_zero(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
