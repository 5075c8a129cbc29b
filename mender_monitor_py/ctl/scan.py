"""``mender-monitorctl scan NAME``: a vulnerability scan, now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mender_monitor_py.ctl import daemon
from mender_monitor_py.ctl.checks import open_catalog
from mender_monitor_py.ctl.text import one_line, table
from mender_monitor_py.errors import MonitorError
from mender_monitor_py.host import vulnscans
from mender_monitor_py.host.vulnscans import Collector, Request, Result
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.vulnscan import VulnscanCheck

FINDINGS, TROUBLE = 1, 2
_SPINNER = "|/-\\"
_TAKEN_S = 5.0  # for the daemon to take the result


class ScanTrouble(click.ClickException):
    """There is no result: an exit status of its own, since 1 says that there are findings."""

    exit_code = TROUBLE


@click.command("scan")
@click.argument("name", type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, name: str, as_json: bool) -> None:
    """
    Run the vulnerability scan NAME now and print what it finds.

    Exit status 0: nothing that matters, 1: findings, 2: the scan failed. While the daemon runs and the check
    is enabled, what it finds is the state of the check, with alerts, as after a scan of the schedule.
    """
    paths = Paths.from_environment()
    check = CheckId("vulnscan", name)
    try:
        catalog = open_catalog()
        built = catalog.build(catalog.load_now(check))
        enabled = check in catalog.enabled()
    except MonitorError as error:
        raise ScanTrouble(str(error)) from error
    if not isinstance(built, VulnscanCheck):
        raise ScanTrouble(f"{check} is a check of a script in monitor.d")
    result = _scan(built.request(paths, progress=True), paths)
    told = _hand_in(paths, check, result) if enabled else "the check is not enabled"
    if as_json:
        click.echo(json.dumps(_as_json(check, result, told), indent=2))
    elif not result.failed:
        _print(result)
    if result.failed:
        said = "".join(f"\n  {line}" for line in result.said) if not as_json else ""
        click.echo(f"mender-monitorctl: {check}: {one_line(result.failed)}{said}", err=True)
    if told and not as_json:
        click.echo(f"No alerts come of this: {one_line(told)}", err=True)
    context.exit(TROUBLE if result.failed else FINDINGS if result.total else 0)


def _scan(request: Request, paths: Paths) -> Result:
    collector = Collector()
    try:
        paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _program(request) as lines, _Progress(request.name) as progress:
            for line in lines:
                collector.take(line)
                progress.draw(collector)
    except OSError as error:
        raise ScanTrouble(f"the scan cannot be started: {error.strerror}") from error
    except MonitorError as error:
        raise ScanTrouble(str(error)) from error
    if collector.result is None:
        raise ScanTrouble("the scan was ended")
    return collector.result


@contextmanager
def _program(request: Request) -> Iterator[Iterator[bytes]]:
    """The lines that the scan process tells; it ends when nobody reads them any more."""
    told = request.descriptor
    with (
        os.fdopen(told, "rb") as stdin,
        subprocess.Popen(
            vulnscans.COMMAND,
            stdin=stdin,
            stdout=subprocess.PIPE,
            cwd="/",
            env={**os.environ, **vulnscans.ENVIRONMENT},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout
        except KeyboardInterrupt:
            process.terminate()
            raise


class _Progress:
    """How long the scan has been running, where somebody sits before a terminal."""

    def __init__(self, name: str) -> None:
        self._name = one_line(name)
        self._shows = sys.stderr.isatty()
        self._turns = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shows and self._turns:
            self._write("")

    def draw(self, collector: Collector) -> None:
        if not self._shows:
            return
        turn = _SPINNER[self._turns % len(_SPINNER)]
        self._turns += 1
        now = collector.progress
        if not collector.started:
            self._write(f"{turn} {self._name} waits for {one_line(collector.waits_for)}")
        elif now:
            minutes, seconds = divmod(int(now["seconds"]), 60)
            memory, output = now["memory"] / 2**20, now["output"] / 1024
            what = f"{now['processes']} processes, {memory:.0f} MiB, {output:.0f} KiB of output"
            self._write(f"{turn} {self._name} runs for {minutes}:{seconds:02}, {what}")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _hand_in(paths: Paths, check: CheckId, result: Result) -> str:
    """Give the result to the daemon; why it does not have it, empty: it has."""
    if daemon.pid(paths) is None:
        return "mender-monitord is not running"
    try:
        path = vulnscans.hand_in(paths, check, result)
    except OSError as error:
        advice = "; run it as root" if isinstance(error, PermissionError) else ""
        return f"{vulnscans.folder(paths)} cannot be written: {error.strerror}{advice}"
    end = time.monotonic() + _TAKEN_S
    while path.exists():
        if time.monotonic() > end:
            path.unlink(missing_ok=True)
            return "mender-monitord did not take the result: see mender-monitorctl status"
        time.sleep(0.02)
    return ""


def _print(result: Result) -> None:
    if result.found:
        rows = [("SEVERITY", "ID", "PACKAGE", "VERSION", "FIXED IN", "")]
        rows += [
            (one.severity, one.id, one.package, one.version, one.fixed, one.title or ", ".join(one.places))
            for one in result.found
        ]
        click.echo(table(rows))
    counts = f"{result.total} findings, {result.below} below the severity, {result.ignored} ignored"
    more = f", the gravest {len(result.found)} shown" if result.total > len(result.found) else ""
    click.echo(f"{counts}{more}, in {result.seconds:.0f} s")


def _as_json(check: CheckId, result: Result, told: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.to_text())
    return {"check": str(check), "told_daemon": not told, "reason": told, **found}
