"""The checks in ``available`` and ``enabled``: lists, reads, creates, enables, disables and deletes them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mender_monitor_py import subsystems
from mender_monitor_py.definition import Parsed, encode, render
from mender_monitor_py.errors import CatalogError
from mender_monitor_py.host.durable import replace_file, sync_folder
from mender_monitor_py.host.shell import ShellFiles
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Check, Definition

# A file's name is split at its first underscore, and hidden files are no checks.
_SUBSYSTEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+@-]*")
_ADVICE = {
    errno.EACCES: "; run it as root",
    errno.EPERM: "; run it as root",
    errno.EROFS: "; MONITOR_D_DIRECTORY can name a folder that is not",
}


class Catalog:
    """
    The folders of the checks, which MONITOR_D_DIRECTORY in *settings* can move.

    Each change is one rename, link or deletion: no reader sees half of it, and no power cut leaves it.
    """

    def __init__(self, paths: Paths, settings: Settings) -> None:
        self.settings = settings
        self._paths = paths
        self._files = ShellFiles(paths.share)

    @property
    def folder(self) -> Path:
        """Where the two folders and the users' own subsystems are."""
        return self._paths.checks(self.settings.monitor_d_directory)

    def folders(self) -> list[Path]:
        """The folders in which a change means something."""
        return [self.folder, self._available, self._enabled]

    def available(self) -> list[CheckId]:
        """The checks that exist, sorted. Raises CatalogError when the folder cannot be read."""
        return _checks(self._available)

    def enabled(self) -> list[CheckId]:
        """The checks that are enabled, sorted; also those whose file is missing. Raises CatalogError."""
        return _checks(self._enabled)

    def file(self, check: CheckId) -> Path:
        """The file that :meth:`load` reads: what is enabled, else what is available."""
        enabled = _entry(self._enabled, check)
        return enabled if os.path.lexists(enabled) else _entry(self._available, check)

    async def load(self, check: CheckId) -> Definition:
        """Read *check*. Raises DefinitionError with file, reason and, if known, line."""
        return self.definition(check, await self._files.read(self.file(check)))

    def load_now(self, check: CheckId) -> Definition:
        """The same, for programs without an event loop."""
        return self.definition(check, self.parse_now(check))

    def parse_now(self, check: CheckId) -> Parsed:
        """The variables of *check*, and what bash complains of. Raises DefinitionError."""
        return self._files.read_now(self.file(check))

    def build(self, definition: Definition) -> Check:
        """
        The check that *definition* describes.

        Raises DefinitionError when a value cannot be used, CatalogError when there is no such subsystem.
        """
        return self.check_class(definition.check.subsystem)(definition, self.settings)

    def check_class(self, subsystem: str) -> type[Check]:
        """The native class of *subsystem*, or that of scripts. Raises CatalogError when there is neither."""
        native = subsystems.check_class(subsystem)
        script = self.folder / f"{subsystem}.sh"
        users_own = script.is_file() and not script.resolve().is_relative_to(self._paths.share.resolve())
        if native is not None and (subsystem in subsystems.CORE or not users_own):
            return native
        if not users_own:
            raise CatalogError(f"there is no subsystem {subsystem!r}, nor {script}")
        from mender_monitor_py.subsystems.shellcompat import ShellCheck

        return ShellCheck

    def create(self, check: CheckId, values: Mapping[str, str]) -> Path:
        """
        Write the file of *check*, in the place of one that is there already.

        Raises DefinitionError or CatalogError when the check would not work, or cannot be written.
        """
        _require_name(check)
        self.build(Definition(check, dict(values)))
        try:
            text = render(values)
        except ValueError as error:
            raise CatalogError(f"{check}: {error}") from error
        path = self._available / check.file_name
        try:
            for folder in (self._available, self._enabled):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(path, encode(text))
        except OSError as error:
            raise _error(f"{check} cannot be created", error) from error
        return path

    def link(self, check: CheckId) -> tuple[Path, Path]:
        """The link that enables *check*, and the file that it leads to; neither need be there."""
        return _entry(self._enabled, check), _entry(self._available, check)

    def enable(self, check: CheckId) -> None:
        """Enable *check*; it may be enabled already. Raises CatalogError."""
        link, target = self.link(check)
        if link.exists():
            return
        if not target.is_file():
            raise CatalogError(f"{check} does not exist: there is no {target}")
        try:
            self._enabled.mkdir(mode=0o755, parents=True, exist_ok=True)
            _link(link, target)
        except OSError as error:
            raise _error(f"{check} cannot be enabled", error) from error

    def disable(self, check: CheckId) -> None:
        """Disable *check*. Raises CatalogError, also when it is not enabled."""
        link = _entry(self._enabled, check)
        if not os.path.lexists(link):
            raise CatalogError(f"{check} is not enabled")
        if not link.is_symlink():
            raise CatalogError(
                f"{link} is no link: move it to {self._available} to keep it, or delete the check"
            )
        try:
            _remove(link)
        except OSError as error:
            raise _error(f"{check} cannot be disabled", error) from error

    def delete(self, check: CheckId) -> None:
        """Disable and delete *check*. Raises CatalogError, also when there is no such check."""
        files = (_entry(self._enabled, check), _entry(self._available, check))
        found = [file for file in files if os.path.lexists(file)]
        if not found:
            raise CatalogError(f"{check} does not exist")
        try:
            for file in found:
                _remove(file)
        except OSError as error:
            raise _error(f"{check} cannot be deleted", error) from error

    @property
    def _available(self) -> Path:
        return self.folder / "available"

    @property
    def _enabled(self) -> Path:
        return self.folder / "enabled"

    def definition(self, check: CheckId, parsed: Parsed) -> Definition:
        """*check* with the variables that its file sets."""
        return Definition(check, parsed.values, str(self.file(check)), parsed.lines)


def _checks(folder: Path) -> list[CheckId]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CatalogError(f"{folder} cannot be read: {error.strerror}") from error
    found = (CheckId.from_file_name(name) for name in names if not name.startswith("."))
    return sorted(check for check in found if check is not None)


def _entry(folder: Path, check: CheckId) -> Path:
    if "/" in check.file_name or "\0" in check.file_name:
        raise CatalogError(f"{check.file_name!r} cannot be the name of a file")
    return folder / check.file_name


def _require_name(check: CheckId) -> None:
    if not _SUBSYSTEM.fullmatch(check.subsystem):
        raise CatalogError(f"{check.subsystem!r} cannot be a subsystem's name")
    name = check.name
    if not name or name != name.strip() or "/" in name or not all(c.isprintable() for c in name):
        raise CatalogError(
            f"{name!r} cannot be a check's name: it is part of a file's name, "
            "and may hold no slash, no control character, and no space at its ends"
        )


def _link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_folder(link.parent)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def _error(what: str, error: OSError) -> CatalogError:
    where = f"{error.filename}: " if error.filename else ""
    return CatalogError(f"{what}: {where}{error.strerror}{_ADVICE.get(error.errno or 0, '')}")
