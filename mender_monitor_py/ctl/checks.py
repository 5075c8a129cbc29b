"""What the commands on checks share: the catalog, and the names on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mender_monitor_py import subsystems
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings

if TYPE_CHECKING:
    from mender_monitor_py.outbox import Outbox

F = TypeVar("F", bound=Callable[..., Any])

# After the first word, all are taken as they are: patterns begin with a dash.
RAW = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def open_catalog() -> Catalog:
    """The checks of this device. What is wrong with its settings is what ``lint`` and ``status`` tell."""
    paths = Paths.from_environment()
    return Catalog(paths, load_settings(paths)[0])


def open_outbox(paths: Paths, settings: Settings, clock: Clock) -> Outbox:
    """The stored alerts, for as long as the command runs."""
    # Imported late: most commands do without.
    from mender_monitor_py.outbox import Limits, Outbox

    outbox = Outbox(paths.outbox, Limits.of(settings), clock)
    click.get_current_context().call_on_close(outbox.close)
    return outbox


def named(subsystem: str, name: str) -> CheckId:
    """The check that a user calls so; a pseudo subsystem's check is one of another subsystem."""
    template = subsystems.template(subsystem)
    return CheckId(template.subsystem if template is not None else subsystem, name)


def of_a_check(function: F) -> F:
    """The arguments of a command on one check."""
    function = click.argument("name", type=click.UNPROCESSED)(function)
    return click.argument("subsystem", type=click.UNPROCESSED)(function)
