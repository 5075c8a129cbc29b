"""
Stored alerts, delivered: alerts a second, requests and connections, CPU of the two processes.

    python -m bench.delivery [--alerts 1000]

A real receiver, a real sender process with a key of its own; the limit of requests a minute is off. Beside it
curl posts the same alerts, one request each, as a script would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mender_monitor_py import wire
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CRITICAL, Alert, Details, Line, Subject
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.sender import drain_once
from mender_monitor_py.settings import Settings
from tests.fakes.receiver import ALERT, MAIN

CURLED = 100


def alert(number: int) -> Alert:
    details = Details("x present in f", (), Line(1, f"error number {number} in a line of usual length"), ())
    return Alert(
        f"Log file contains x{number}", CRITICAL, Subject(f"log_x{number}", "log", "LOGCONTAINS"), details
    )


def device(root: Path, url: str) -> tuple[Paths, Settings]:
    """A device with a key, an identity and the server's address."""
    paths = Paths(root)
    for folder in (paths.state, paths.run):
        folder.mkdir(parents=True)
    key, identity = account(paths, url)
    settings = replace(
        Settings(), device_key=str(key), device_identity=str(identity), alert_requests_per_minute=0
    )
    return paths, settings


def account(paths: Paths, url: str) -> tuple[Path, Path]:
    """A new key and a program that prints an identity; *url* is the server of the update client."""
    key, identity = paths.root / "key.pem", paths.root / "identity"
    paths.mender_conf.parent.mkdir(parents=True)
    paths.mender_conf.write_text(json.dumps({"ServerURL": url}))
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True)
    identity.write_text("#!/bin/sh\necho mac=02:00:00:00:00:01\n")
    identity.chmod(0o755)
    return key, identity


@contextmanager
def receiver(*options: str) -> Iterator[str]:
    """A receiver's address."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "--port", "0", *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip().removeprefix("listening on ")
    try:
        if not url:
            sys.exit("the receiver did not start")
        yield url
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alerts", type=int, default=1000)
    count: int = parser.parse_args().alerts
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    with tempfile.TemporaryDirectory() as name, receiver() as url:
        paths, settings = device(Path(name) / "root", url)
        clock = Clock()
        outbox = Outbox(paths.outbox, Limits(count=count), clock)
        outbox.put([alert(n) for n in range(count)], clock.now())
        trace = Path(name) / "trace"
        own, others, start = time.process_time(), children_cpu(), time.monotonic()
        done = asyncio.run(drain_once(outbox, settings, paths, clock))
        took = time.monotonic() - start
        if done.problem or done.sent != count:
            sys.exit(f"{done.sent} alerts were sent: {done.problem}")
        print(
            f"{count} alerts in {took:.2f} s, {count / took:.0f} a second; CPU: watcher's part "
            f"{time.process_time() - own:.2f} s, sender process {children_cpu() - others:.2f} s"
        )
        outbox.put([alert(n) for n in range(count)], clock.now())
        requests, connections = traced(trace, paths, settings, outbox, clock)
        print(f"requests with alerts: {requests}, connections: {connections}")
        outbox.close()
    with receiver("--open") as url:
        curl(url, clock)


def traced(trace: Path, paths: Paths, settings: Settings, outbox: Outbox, clock: Clock) -> tuple[int, int]:
    """Requests and TCP connections of another delivery, by strace(1)."""
    tracer = subprocess.Popen(
        [
            "strace",
            "-f",
            "-s",
            "60",
            "-o",
            str(trace),
            "-e",
            "trace=connect,sendto,write",
            "-p",
            str(os.getpid()),
        ],
        stderr=subprocess.PIPE,
    )
    assert tracer.stderr is not None
    tracer.stderr.readline()  # it is attached
    asyncio.run(drain_once(outbox, settings, paths, clock))
    tracer.terminate()
    tracer.wait()
    tracer.stderr.close()
    text = trace.read_text(errors="replace")
    return len(re.findall(rf"POST {ALERT}", text)), len(
        re.findall(r"connect\(\d+, {sa_family=AF_INET,", text)
    )


def curl(url: str, clock: Clock) -> None:
    start = time.monotonic()
    for n in range(CURLED):
        body = json.dumps([wire.request_body(alert(n), clock.now().wall)])
        subprocess.run(
            ["curl", "-sf", "-H", "Content-Type: application/json", "--data-binary", body, url + ALERT],
            check=True,
        )
    print(f"curl, a request each: {CURLED / (time.monotonic() - start):.0f} alerts a second")


if __name__ == "__main__":
    main()
