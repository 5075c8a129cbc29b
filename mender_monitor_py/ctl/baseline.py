"""``mender-monitorctl baseline``: the lists of what checks expect."""

from __future__ import annotations

import json
from collections.abc import Sized
from pathlib import Path
from typing import Any

import click

from mender_monitor_py import baseline
from mender_monitor_py.ctl.checks import RAW, of_a_check
from mender_monitor_py.ctl.groups import need_command
from mender_monitor_py.ctl.lists import Kept, progress
from mender_monitor_py.ctl.text import counted, one_line, table, without_long_hashes
from mender_monitor_py.errors import BaselineError
from mender_monitor_py.host.durable import replace_file
from mender_monitor_py.host.signedlists import signature_path

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("baseline", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Learn, review, change and sign the lists of what checks expect."""
    need_command(context, f"{context.command_path} --help")


@command.command("learn")
@of_a_check
@_JSON
def learn(subsystem: str, name: str, as_json: bool) -> None:
    """
    Write the list of what the device has now, in the place of the old one.

    A list that says the same is kept as it is, with its comments.
    """
    kept = Kept.of(subsystem, name)
    with progress(kept.host):
        rows = {thing.row for thing in kept.survey()}
    before = set(kept.rows)
    data = baseline.learned(str(kept.check.id), rows, kept.data or b"", kept.trusted_serial, kept.check.order)
    changed = data != kept.data
    if changed:
        kept.write(data)
    new, gone = len(rows - before), len(before - rows)
    if as_json:
        facts = {"entries": len(rows), "changed": changed, "new": new, "gone": gone, "serial": _serial(data)}
        _print({"file": str(kept.path), **facts})
    elif not changed:
        click.echo(f"{kept.path}: nothing is different, {_entries(rows)}")
    else:
        differ = f" ({new:,} new, {gone:,} gone)" if before else ""
        click.echo(f"{kept.path}: {_entries(rows)}{differ}, serial {_serial(data)}{kept.to_be_signed}")


@command.command("show")
@of_a_check
@_JSON
def show(subsystem: str, name: str, as_json: bool) -> None:
    """
    Print the list, and what the check file adds to it.

    The SHA-256 of a file is cut; --json and the list itself have it in full.
    """
    kept = Kept.of(subsystem, name)
    listing = kept.listing()
    trust = kept.trust()
    if as_json:
        _print(
            {
                "file": str(kept.path),
                "serial": listing.serial,
                "entries": kept.rows,
                "inline": len(kept.check.inline),
                "problems": listing.problems,
                "trusted": not trust if kept.keys else None,
                "reason": trust,
            }
        )
        return
    state = f"not trusted: {trust}" if trust else "signed" if kept.keys else "no key in trusted.d"
    click.echo(f"{kept.path}: {_entries(kept.rows)}, serial {listing.serial}, {state}")
    if kept.check.inline:
        click.echo(f"{counted(len(kept.check.inline), 'more entry', 'more entries')} in the check file")
    for problem in listing.problems:
        click.echo(f"! {one_line(problem)}")
    if kept.rows:
        columns = kept.check.columns
        fields = [without_long_hashes(row).split(None, len(columns) - 1) for row in kept.rows]
        click.echo(table([columns, *([*one, *[""] * (len(columns) - len(one))] for one in fields)]))


@command.command("diff")
@of_a_check
@_JSON
@click.pass_context
def diff(context: click.Context, subsystem: str, name: str, as_json: bool) -> None:
    """
    Print how the device differs from the list: exit status 0 when it does not, 1 when it does.

    What is there and not expected begins with "+", what is expected and not there with "-". Of what is
    other than expected the differences are told.
    """
    kept = Kept.of(subsystem, name)
    with progress(kept.host):
        found = kept.differences()
    if as_json:
        _print(found.as_json())
    elif not found.any:
        click.echo("nothing is different")
    else:
        for title, rows in found.parts():
            click.echo(f"{title}:")
            click.echo("\n".join(f"  {one_line(row)}" for row in rows))
    context.exit(1 if found.any else 0)


@command.command("accept", context_settings=RAW)
@of_a_check
@click.argument("entry", nargs=-1, required=True, type=click.UNPROCESSED)
def accept(subsystem: str, name: str, entry: tuple[str, ...]) -> None:
    """
    Add one entry to the list: as diff shows it, or the path alone for a file as it is now.

    What the list had for the same path is replaced.
    """
    kept = Kept.of(subsystem, name)
    row = kept.row_of(entry)
    data = baseline.accepted(
        str(kept.check.id),
        kept.data or b"",
        row,
        kept.replaced_by(row),
        kept.trusted_serial,
        kept.check.order,
    )
    if data == kept.data:
        click.echo(f"{kept.path}: has that entry already")
        return
    kept.write(data)
    click.echo(f"{kept.path}: {one_line(row)}, serial {_serial(data)}{kept.to_be_signed}")


@command.command("keygen")
@click.argument("private", type=_FILE)
@click.argument("public", type=_FILE)
def keygen(private: Path, public: Path) -> None:
    """
    Make a pair of keys: PRIVATE to sign with, off the device, and PUBLIC for trusted.d on it.

    An existing file is never written over.
    """
    from mender_monitor_py.signature import new_pair

    for path, data, mode in zip((private, public), new_pair(), (0o600, 0o644), strict=True):
        _create(path, data, mode)
    click.echo(f"{private}: keep it secret, off the devices\n{public}: for /etc/mender-monitor/trusted.d")


@command.command("sign")
@click.option("--key", required=True, type=_FILE, help="The private key, PEM.")
@click.argument("file", type=_FILE)
def sign(key: Path, file: Path) -> None:
    """Write the signature of the list FILE to FILE.sig."""
    from mender_monitor_py import signature

    data = _read(file)
    listing = baseline.parse(data, file.name, list)
    if not listing.check or not listing.serial:
        raise BaselineError(f"{file} does not say its check and its serial: see baseline learn")
    try:
        signed = signature.sign(_read(key), data, lambda: click.prompt(f"Password of {key}", hide_input=True))
    except ValueError as error:
        raise BaselineError(f"{key}: {error}") from error
    path = signature_path(file)
    try:
        replace_file(path, signed)
    except OSError as error:
        raise BaselineError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"{path}: the list of {one_line(listing.check)}, serial {listing.serial}")


@command.command("verify")
@click.option("--key", type=_FILE, help="A public key, PEM, to verify a FILE that is on no device.")
@click.argument("words", nargs=-1, metavar="SUBSYSTEM NAME | FILE")
def verify(key: Path | None, words: tuple[str, ...]) -> None:
    """Tell whether the list of a check, or a FILE, is signed as it should be; exit status 1 when not."""
    if key is not None and len(words) == 1:
        _verify_file(key, Path(words[0]))
    elif key is None and len(words) == 2:
        kept = Kept.of(*words)
        if not kept.keys:
            raise BaselineError(f"no key in {kept.paths.trusted_d}: lists are not signed on this device")
        if reason := kept.trust():
            raise BaselineError(f"{kept.path} is not trusted: {reason}")
        click.echo(f"{kept.path}: signed by {one_line(kept.signer)}, serial {kept.listing().serial}")
    else:
        raise click.UsageError("SUBSYSTEM NAME, or --key and a FILE, is needed")


def _verify_file(key: Path, file: Path) -> None:
    from mender_monitor_py.signature import Keys

    data = _read(file)
    keys = Keys({key.name: _read(key)})
    if keys.problems:
        raise BaselineError(f"{key}: {keys.problems[key.name]}")
    if not keys.signer(_read(signature_path(file)), data):
        raise BaselineError(f"the signature of {file} does not fit")
    listing = baseline.parse(data, file.name, list)
    click.echo(f"{file}: the list of {one_line(listing.check)}, serial {listing.serial}")


def _entries(rows: Sized) -> str:
    return counted(len(rows), "entry", "entries")


def _serial(data: bytes) -> int:
    return baseline.parse(data, "", list).serial


def _print(found: dict[str, Any]) -> None:
    click.echo(json.dumps(found, indent=2))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BaselineError(f"{path} cannot be read: {error.strerror}") from error


def _create(path: Path, data: bytes, mode: int) -> None:
    import os

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise BaselineError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
