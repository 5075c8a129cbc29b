"""``mender-monitorctl help``: made from the fields of the subsystems."""

from __future__ import annotations

import click

from mender_monitor_py import subsystems
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.ctl import PROGRAM, TITLE
from mender_monitor_py.ctl.arguments import template_usage, usage
from mender_monitor_py.ctl.checks import open_catalog
from mender_monitor_py.ctl.text import table
from mender_monitor_py.subsystems.base import Field

_OTHERS = (
    ("enable SUBSYSTEM NAME", "watch what a check is for"),
    ("disable SUBSYSTEM NAME", "watch it no more"),
    ("delete SUBSYSTEM NAME", "disable a check, and delete it"),
    ("list [--all]", "the enabled checks; with --all the others too"),
    ("status [--json]", "what each check has found, and what waits to be sent"),
    ("silence SUBSYSTEM NAME|--all DURATION", "send nothing of a check for a while; --reason TEXT"),
    ("unsilence SUBSYSTEM NAME|--all", "end that before its time"),
    ("baseline learn|show|diff|accept|sign|verify|keygen", "the lists of what checks expect"),
    ("secure [--check] [--yes] [--json] [--allow-login USER]", "the security checks that fit this device"),
    ("scan NAME [--json]", "a vulnerability scan, now; exit status 1 when it finds something"),
    ("queue list|show|flush|drop", "the alerts that wait to be sent"),
    ("lint [SUBSYSTEM NAME]", "what is wrong, or doubtful, in the files of the checks and settings"),
    ("help [SUBSYSTEM]", "this, or the variables of a subsystem's checks"),
    ("--version", "the version"),
)


@click.command("help")
@click.argument("subsystem", required=False)
def command(subsystem: str | None) -> None:
    """Explain all commands, or the variables of a subsystem's checks."""
    click.echo(subsystem_help(open_catalog(), subsystem) if subsystem else overview())


def overview() -> str:
    """Every command, a line each."""
    catalog = open_catalog()
    parts = [TITLE, "", "Usage:", *(f"  {line}" for line in create_usages(catalog))]
    parts += [f"  {PROGRAM} COMMAND ...", "", "Subsystems:", _indented(table(_summaries())), ""]
    parts += [
        "Commands:",
        _indented(table([("create SUBSYSTEM NAME ...", "write a check's file"), *_OTHERS])),
        "",
    ]
    parts.append("EXPIRATION is seconds, or a number with s, m, h or d. Only root can change checks.")
    parts.append(
        "A subsystem of your own is a script monitor.d/SUBSYSTEM.sh; its checks take VARIABLE=VALUE words."
    )
    return "\n".join(parts)


def create_usages(catalog: Catalog) -> list[str]:
    """The usage of ``create`` for each subsystem."""
    return [create_usage(catalog, name) for name in (*subsystems.SUBSYSTEMS, *subsystems.TEMPLATES)]


def create_usage(catalog: Catalog, subsystem: str) -> str:
    """The usage of ``create`` for one subsystem. Raises CatalogError when there is no such one."""
    template = subsystems.template(subsystem)
    words = template_usage(template) if template else usage(catalog.check_class(subsystem).fields)
    return f"{PROGRAM} create {subsystem} NAME {words}".rstrip()


def subsystem_help(catalog: Catalog, subsystem: str) -> str:
    """What a subsystem is, and its variables. Raises CatalogError when there is no such one."""
    template = subsystems.template(subsystem)
    if template is not None:
        note = f"It makes a check of the subsystem {template.subsystem}."
        return f"{subsystem}: {template.summary}\n\n{create_usage(catalog, subsystem)}\n\n{note}"
    found = catalog.check_class(subsystem)
    parts = [f"{subsystem}: {found.summary}", "", create_usage(catalog, subsystem)]
    if found.fields:
        parts += ["", "Variables:", _indented(table((f.name, _about(f)) for f in found.fields))]
    return "\n".join(parts)


def _about(field: Field) -> str:
    notes = [
        *(["required"] if field.required else []),
        *([f"default {field.default}"] if field.default else []),
        *([f"also {', '.join(field.aliases)}"] if field.aliases else []),
    ]
    return f"{field.help} ({'; '.join(notes)})" if notes else field.help


def _summaries() -> list[tuple[str, str]]:
    found = []
    for name in (*subsystems.SUBSYSTEMS, *subsystems.TEMPLATES):
        kind = subsystems.template(name) or subsystems.check_class(name)
        found.append((name, kind.summary if kind else ""))
    return found


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
