"""Reads the settings: the shipped file, and the user's over it."""

from __future__ import annotations

import os

from mender_monitor_py import settings
from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host.shell import ShellFiles
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings


def load_settings(paths: Paths) -> tuple[Settings, list[str]]:
    """
    The settings, and a warning for each file and each value that cannot be used.

    A file that is not there is no reason for one.
    """
    files = ShellFiles(paths.share)
    found, warnings = Settings(), []
    for file in (paths.config, paths.overrides):
        if not os.path.lexists(file):
            continue
        try:
            parsed = files.read_now(file)
        except DefinitionError as error:
            warnings.append(f"{error}; nothing of it is used")
            continue
        found, more = settings.from_values(parsed.values, parsed.lines, str(file), found)
        warnings += more
        if parsed.complaint:
            warnings.append(f"{file}: bash says: {parsed.complaint.splitlines()[0]}")
    return found, warnings
