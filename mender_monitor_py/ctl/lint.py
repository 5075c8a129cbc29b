"""``mender-monitorctl lint``: what is wrong, or doubtful, in the files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mender_monitor_py.catalog import Catalog
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl.checks import named
from mender_monitor_py.ctl.text import one_line
from mender_monitor_py.errors import CatalogError, DefinitionError, MonitorError
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.base import Definition

_ERROR, _WARNING = "error", "warning"


@click.command("lint")
@click.argument("subsystem", required=False)
@click.argument("name", required=False)
def command(subsystem: str | None, name: str | None) -> None:
    """
    Read every check, or one, and the settings, and print what is wrong.

    An error keeps the check from running; a warning is what may not be meant so. Exit status 1: there are
    errors.
    """
    paths = Paths.from_environment()
    settings, warnings = load_settings(paths)
    catalog = Catalog(paths, settings)
    if subsystem is not None:
        if name is None:
            raise click.UsageError("NAME is missing")
        checks, found = [_existing(catalog, named(subsystem, name))], []
    else:
        checks = sorted({*catalog.available(), *catalog.enabled()})
        found = [(_WARNING, warning) for warning in warnings]
        found += [(_WARNING, text) for text in _stray_files(catalog)]
    found += [problem for check in checks for problem in _problems(catalog, check)]
    for kind, text in found:
        click.echo(f"{kind}: {one_line(text)}")
    sys.exit(any(kind == _ERROR for kind, _ in found))


def _existing(catalog: Catalog, check: CheckId) -> CheckId:
    if not os.path.lexists(catalog.file(check)):
        raise CatalogError(f"{check} does not exist")
    return check


def _stray_files(catalog: Catalog) -> Iterator[str]:
    for folder in catalog.folders()[1:]:
        for path in sorted(folder.glob("*.sh")):
            if CheckId.from_file_name(path.name) is None:
                yield f"{path}: is no check: its name is not SUBSYSTEM_NAME.sh"


def _problems(catalog: Catalog, check: CheckId) -> Iterator[tuple[str, str]]:
    try:
        parsed = catalog.parse_now(check)
        definition = catalog.definition(check, parsed)
        catalog.build(definition)
    except DefinitionError as error:
        yield _ERROR, str(error)
        return
    except MonitorError as error:
        yield _ERROR, f"{catalog.file(check)}: {error}"
        return
    if parsed.complaint:
        yield _WARNING, f"{definition.file}: bash says: {parsed.complaint.splitlines()[0]}"
    for other in _others(catalog, check):
        yield _WARNING, f"{definition.file}: {other} is enabled, too: one of them does not run"
    for key, reason in _doubts(catalog, definition):
        yield _WARNING, str(definition.error(key, reason))


def _others(catalog: Catalog, check: CheckId) -> list[CheckId]:
    """The enabled checks beside *check*, where there may be only one."""
    enabled = catalog.enabled()
    if check not in enabled or not catalog.check_class(check.subsystem).alone:
        return []
    return sorted(other for other in enabled if other.subsystem == check.subsystem and other != check)


def _doubts(catalog: Catalog, definition: Definition) -> Iterator[tuple[str, str]]:
    """Variables, and what is doubtful in them."""
    fields = catalog.check_class(definition.check.subsystem).fields
    known = [name for field in fields for name in (field.name, *field.aliases)]
    for name, value in definition.values.items():
        if fields and name not in known:
            yield name, f"is no variable of {definition.check.subsystem} checks{_suggestion(name, known)}"
        elif value.endswith("\r"):
            yield name, "ends with a carriage return: the file has the line ends of another system"
    file = definition.values.get("LOG_FILE", "")
    if file.startswith("/") and not Path(file).exists():
        yield "LOG_FILE", f"{file} does not exist (yet)"


def _suggestion(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"; is {close[0]} meant?" if close else ""
