"""``mender-monitorctl secure``: the security checks that fit this device, in one go."""

from __future__ import annotations

import json
import os
import pwd
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from mender_monitor_py.catalog import Catalog
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl import daemon
from mender_monitor_py.ctl.securing import ENABLE, ENABLED, LEFT_OUT, MISSING, Securing, Step
from mender_monitor_py.ctl.text import one_line
from mender_monitor_py.errors import CatalogError
from mender_monitor_py.paths import Paths
from mender_monitor_py.proposals import Setting, Wishes, propose

_WIDTH = 160  # characters of a line that shows a setting's value
_WORDS = {ENABLE: "to enable", ENABLED: "enabled", LEFT_OUT: "left out", MISSING: "MISSING"}


@click.command("secure")
@click.option("--check", "only_check", is_flag=True, help="Only say what is not covered; exit status 1 then.")
@click.option("--yes", is_flag=True, help="Do it without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--allow-login",
    "root_users",
    metavar="USER",
    multiple=True,
    help="This user may become root without an alert, by ssh, sudo or su; may be given several times.",
)
@click.pass_context
def command(
    context: click.Context, only_check: bool, yes: bool, as_json: bool, root_users: tuple[str, ...]
) -> None:
    """
    Propose the security checks that fit this device, learn what they expect, and enable them after a yes.

    What is enabled already, what a check file says and what a list has is never changed. It does all or, when
    it is interrupted, nothing. The exit status is 1 when there is something to do and it was not done: with
    --json and without --yes, too.
    """
    wishes = Wishes(_users(root_users))
    if os.geteuid() != 0:
        raise CatalogError("only root sees what runs here: run it as root")
    # Late: it is half of what this program loads.
    from mender_monitor_py.host import devicesurvey

    paths = Paths.from_environment()
    catalog = Catalog(paths, load_settings(paths)[0])
    proposals = propose(devicesurvey.look(), wishes)
    securing = Securing(catalog, paths)
    steps = securing.steps(proposals, learn=not only_check)
    if only_check:
        context.exit(_tell_covered(steps, paths, as_json=as_json))
    changing = [step for step in steps if step.changes]
    if not as_json:
        click.echo(table(steps))
    done = bool(changing) and (yes or _agreed(len(changing), as_json=as_json))
    if done:
        securing.write(steps)
    if as_json:
        click.echo(json.dumps({"done": done or not changing, "checks": [*map(_as_json, steps)]}, indent=2))
    elif not changing:
        click.echo("Nothing to do: what fits this device is enabled.")
    elif done:
        click.echo(f"{_counted(len(changing), 'check')} enabled.{_what_now(paths)}")
    if changing and not done:
        raise CatalogError("nothing was changed: --yes is needed where nobody can be asked")


def table(steps: Iterable[Step]) -> str:
    """*steps* for a person: what is watched, each setting and why, and the size of the lists."""
    lines = []
    for step in steps:
        proposal = step.proposal
        title = f"{proposal.subsystem} {proposal.name}".strip()
        reason = f"{proposal.left_out}; {proposal.advice}" if proposal.advice else proposal.left_out
        learned = "" if step.entries is None else f"; {_counted(step.entries, 'entry')} {_origin(step)}"
        lines.append(f"{_WORDS[step.state]:<10} {title:<20} {one_line(reason or proposal.watches)}{learned}")
        settings = step.settings if step.state == ENABLE else ()
        details = [line for setting in settings for line in _shown(setting)] + [*_notes(step)]
        lines += [f"{'':<31} {one_line(text)}" for text in details]
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    several = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {what if number == 1 else several}"


def _origin(step: Step) -> str:
    return "learned" if step.list is not None else "listed"


def _shown(setting: Setting) -> list[str]:
    """All of it, in lines; the reason has one of its own where the value takes several."""
    value = one_line(f"{setting.name}={setting.value}")
    if len(value) <= _WIDTH:
        return [f"{value}: {setting.why}" if setting.why else value]
    lines = textwrap.wrap(
        value, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return lines + ([f"  why: {setting.why}"] if setting.why else [])


def _notes(step: Step) -> Iterator[str]:
    yield from step.notes
    if step.state == ENABLE:
        yield from step.proposal.notes


def _as_json(step: Step) -> dict[str, Any]:
    proposal = step.proposal
    return {
        "subsystem": proposal.subsystem,
        "name": proposal.name,
        "state": step.state,
        "watches": proposal.watches,
        "settings": [{"name": one.name, "value": one.value, "why": one.why} for one in step.settings],
        "entries": step.entries,
        "learned": step.list is not None,
        "notes": [*_notes(step)],
        "reason": proposal.left_out,
        "advice": proposal.advice,
    }


def _users(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if not name or not all(character.isalnum() or character in "._-@+$" for character in name):
            raise click.BadParameter(f"{name!r} is no user's name", param_hint="--allow-login")
        try:
            pwd.getpwnam(name)
        except KeyError:  # he may be made later
            click.echo(f"mender-monitorctl: --allow-login: there is no user {name} here now", err=True)
    return tuple(names)


def _agreed(number: int, *, as_json: bool) -> bool:
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    if not click.confirm(f"\nEnable {_counted(number, 'check')}?"):
        raise click.Abort
    return True


def _what_now(paths: Paths) -> str:
    if daemon.pid(paths) is not None:
        return " monitorctl status shows them."
    return " The monitor does not run: systemctl enable --now mender-monitor, or as your init does it."


# What is covered


def _tell_covered(steps: Iterable[Step], paths: Paths, *, as_json: bool) -> int:
    """Print which scenarios are covered; 0 when all are that this device should have."""
    number = daemon.pid(paths)
    told = daemon.status(paths, number)
    states = {(one["subsystem"], one["name"]): one for one in told.get("checks", [])}
    rows = []
    for step in steps:
        proposal = step.proposal
        state = states.get((proposal.subsystem, proposal.name), {})
        rows.append((proposal.subsystem, proposal.name, *_coverage(step, state, running=number is not None)))
    covered = number is not None and all(row[2] != "NOT COVERED" for row in rows)
    if as_json:
        found = [dict(zip(("subsystem", "name", "coverage", "reason"), row, strict=True)) for row in rows]
        for one in found:
            one["coverage"] = one["coverage"].lower()
        click.echo(json.dumps({"covered": covered, "running": number is not None, "checks": found}, indent=2))
        return 0 if covered else 1
    for subsystem, name, coverage, reason in rows:
        click.echo(f"{coverage:<12} {f'{subsystem} {name}'.strip():<20} {one_line(reason)}".rstrip())
    if number is None:
        click.echo("NOT COVERED  the monitor does not run: nothing is watched")
    return 0 if covered else 1


def _coverage(step: Step, told: dict[str, Any], *, running: bool) -> tuple[str, str]:
    """Whether a scenario is covered, and the reason."""
    proposal = step.proposal
    if step.state == LEFT_OUT:
        return "not needed", proposal.left_out
    if step.state == MISSING:
        return "NOT COVERED", f"{proposal.left_out}; {proposal.advice}"
    if step.state == ENABLE:
        return "NOT COVERED", f"not enabled: {proposal.watches}; run monitorctl secure"
    state = told.get("state", "")
    if not running or state in ("", "starting"):
        return "covered", "it has not looked yet" if running else "as soon as the monitor runs"
    if state in ("unknown", "failed"):
        return "NOT COVERED", f"{state}: {told.get('error') or 'see monitorctl status'}"
    return "covered", "; ".join(step.notes)
