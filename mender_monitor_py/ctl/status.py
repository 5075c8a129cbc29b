"""``mender-monitorctl status``."""

from __future__ import annotations

import json
from typing import Any

import click

from mender_monitor_py import silence
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl import daemon
from mender_monitor_py.ctl.checks import open_outbox
from mender_monitor_py.ctl.text import counted, moment, one_line, table
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CheckId
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.pidwatch import lifetime
from mender_monitor_py.records import happened
from mender_monitor_py.silence import Silence, Silences

_NOT_WATCHED, _DISABLED, _STARTING = "not watched", "disabled", "starting"


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(as_json: bool) -> None:
    """Show each check's state, since when, and its last error; and what waits to be sent."""
    found = _collect(Paths.from_environment())
    click.echo(json.dumps(found, indent=2) if as_json else _text(found))


def _collect(paths: Paths) -> dict[str, Any]:
    settings, warnings = load_settings(paths)
    number = daemon.pid(paths)
    told = daemon.status(paths, number)
    about = told.get("daemon", {})
    clock = Clock()
    outbox = open_outbox(paths, settings, clock)
    silences = _silences(outbox, paths, clock)
    return {
        "daemon": {
            "running": number is not None,
            "pid": number,
            "version": about.get("version", ""),
            "started": about.get("started"),
        },
        "checks": _checks(
            Catalog(paths, settings),
            number is not None,
            told.get("checks", []),
            silences,
        ),
        "silenced": _silenced(silences.everything),
        "held": told.get("held"),
        "outbox": _outbox(outbox, paths, clock),
        "sender": told.get("sender", {}),
        "warnings": told.get("warnings", warnings),
    }


def _checks(
    catalog: Catalog, running: bool, told: list[dict[str, Any]], silences: Silences
) -> list[dict[str, Any]]:
    """Every check there is; one of which the daemon has not told yet is starting."""
    states = {CheckId(one["subsystem"], one["name"]): one for one in told}
    enabled = set(catalog.enabled())
    found = []
    for check in sorted(enabled.union(catalog.available())):
        state = states.get(check) if check in enabled else None
        other = _DISABLED if check not in enabled else _STARTING if running else _NOT_WATCHED
        nothing: dict[str, Any] = {"state": other, "since": None, "error": "", "findings": [], "notes": []}
        names = {"subsystem": check.subsystem, "name": check.name, "enabled": check in enabled}
        found.append(
            names
            | (nothing if state is None else {key: state.get(key, nothing[key]) for key in nothing})
            | {"silenced": _silenced(silences.of(check))}
        )
    return found


def _silences(outbox: Outbox, paths: Paths, clock: Clock) -> Silences:
    try:
        return silence.active(outbox, clock.now()) if paths.outbox.exists() else Silences()
    except (OutboxError, OSError):
        return Silences()  # that it cannot be read is told with the outbox


def _silenced(found: Silence | None) -> dict[str, Any] | None:
    return None if found is None else {"seconds": found.left, "reason": found.reason}


def _held(held: dict[str, Any]) -> str:
    name = held["artifact"] or held["deployment"] or "an artifact"
    doing = f"has ended: {held['outcome']}" if held["outcome"] else "installs"
    return one_line(
        f"Held back: {counted(held['findings'], 'finding', 'findings')}, deployment {name} {doing}; "
        f"they are told at {moment(held['until'])} at the latest"
    )


def _waits(finding: dict[str, Any]) -> str:
    # A daemon from before an upgrade does not say it.
    return "" if finding.get("told", True) else " (not told yet)"


def _silent(silenced: dict[str, Any]) -> str:
    seconds = silenced["seconds"]
    left = lifetime(60 * round(seconds / 60) if seconds >= 60 else round(seconds))
    return one_line(f"silent for another {left}: {silenced['reason'] or 'no reason is given'}")


def _outbox(outbox: Outbox, paths: Paths, clock: Clock) -> dict[str, Any]:
    try:
        counts = outbox.counts() if paths.outbox.exists() else None
    except (OutboxError, OSError) as error:
        return {"error": str(error)}
    if counts is None:
        return {"waiting": 0, "set_aside": 0, "sent": 0, "dropped": 0, "oldest": None}
    return {
        "waiting": counts.waiting,
        "set_aside": counts.set_aside,
        "sent": counts.sent,
        "dropped": counts.dropped,
        "oldest": None if counts.oldest is None else happened(counts.oldest, clock.now()),
    }


def _text(found: dict[str, Any]) -> str:
    about, outbox = found["daemon"], found["outbox"]
    if about["running"]:
        lines = [
            f"mender-monitord {about['version']} runs since {moment(about['started'])}, pid {about['pid']}"
        ]
    else:
        lines = ["mender-monitord is not running: nothing is watched"]
    if found["silenced"] is not None:
        lines.append(f"All checks are {_silent(found['silenced'])}")
    if found["held"] is not None:
        lines.append(_held(found["held"]))
    rows = [("STATE", "SINCE", "CHECK", "")]
    for check in found["checks"]:
        name = f"{check['subsystem']} {check['name']}"
        rows.append((check["state"], moment(check["since"]), name, check["error"]))
        if check["silenced"] not in (None, found["silenced"]):  # what is so for all of them is above
            rows.append(("", "", "", _silent(check["silenced"])))
        rows += [
            ("", moment(one["since"]), "", f"{one['level']}: {one['name']}{_waits(one)}")
            for one in check["findings"]
        ]
        rows += [("", "", "", note) for note in check["notes"]]
    lines += ["", table(rows) if found["checks"] else "There are no checks.", ""]
    if "error" in outbox:
        lines.append(f"Outbox: {one_line(outbox['error'])}")
    else:
        oldest = f", the oldest from {moment(outbox['oldest'])}" if outbox["oldest"] is not None else ""
        lines.append(
            f"Outbox: {outbox['waiting']} waiting{oldest}, {outbox['set_aside']} set aside, "
            f"{outbox['sent']} sent lately, {outbox['dropped']} dropped ever"
        )
    sender = found["sender"]
    if sender.get("reason"):
        lines.append(f"Sender: waits until {moment(sender.get('next_try'))}: {one_line(sender['reason'])}")
    if sender.get("last_sent"):
        lines.append(f"Last sent: {moment(sender['last_sent'])}")
    lines += [f"Warning: {one_line(warning)}" for warning in found["warnings"]]
    return "\n".join(lines)
