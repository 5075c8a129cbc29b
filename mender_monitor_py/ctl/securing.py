"""From proposals to files: what `secure` would write, and writing all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mender_monitor_py import baseline
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.ctl.lists import Kept, progress
from mender_monitor_py.definition import HEADER, assignment, encode
from mender_monitor_py.errors import CatalogError, DefinitionError, MonitorError
from mender_monitor_py.host.shell import ShellFiles
from mender_monitor_py.host.stagedfiles import StagedFiles
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.proposals import Proposal, Setting
from mender_monitor_py.subsystems.base import Check, Definition
from mender_monitor_py.subsystems.expected import Baselined

ENABLE, ENABLED, LEFT_OUT, MISSING = "enable", "enabled", "left out", "missing"
_CHOSEN = "# Chosen by monitorctl secure:"
_OF_ONE_THING = ("pid", "wifi", "vulnscan")  # one check a process, an interface, a scanner


@dataclass(frozen=True)
class Step:
    """
    What is to be done for a proposal. *state*: one of the four words above; *missing* is a scenario that the
    device should have and cannot have yet, by the proposal's advice.

    *settings* are in force then: what a check file says already stays. *file* and *list* are what to write.
    """

    proposal: Proposal
    state: str
    settings: tuple[Setting, ...] = ()
    file: bytes | None = None
    list: bytes | None = None
    list_path: Path | None = None
    entries: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return self.state == ENABLE or self.list is not None


class Securing:
    """Plans and writes, for the device of *paths*."""

    def __init__(self, catalog: Catalog, paths: Paths) -> None:
        self._catalog = catalog
        self._paths = paths

    def steps(self, proposals: Iterable[Proposal], *, learn: bool) -> list[Step]:
        """
        A step for each proposal, and one for each other enabled check of its scenario; *learn*: with lists.

        Raises MonitorError when the device cannot be looked at.
        """
        enabled = self._catalog.enabled()
        found: list[Step] = []
        for proposal in proposals:
            own = {one.proposal.check for one in found} | {proposal.check}
            others = [one for one in enabled if one.subsystem == proposal.subsystem and one not in own]
            several = proposal.subsystem in _OF_ONE_THING and not proposal.left_out
            if several or not others or proposal.check in enabled:
                found.append(self._step(proposal, learn=learn))
            if not several:
                found += [self._kept(Proposal(*_names(one), "as it was set up"), learn) for one in others]
        return found

    def _step(self, proposal: Proposal, *, learn: bool) -> Step:
        if proposal.left_out:
            return Step(proposal, MISSING if proposal.advice else LEFT_OUT)
        if proposal.check in self._catalog.enabled():
            return self._kept(proposal, learn)
        try:
            step, check = self._new(proposal)
        except (DefinitionError, CatalogError) as error:
            advice = "mend it, or delete it and run secure again"
            return Step(replace(proposal, left_out=str(error), advice=advice), MISSING)
        return self._with_list(step, check) if learn else step

    def _kept(self, proposal: Proposal, learn: bool) -> Step:
        """The step of a check that is enabled: it stays as it is; a list that is not there is learned."""
        try:
            definition = self._catalog.load_now(proposal.check)
            check = self._catalog.build(definition)
        except MonitorError as error:
            return Step(proposal, ENABLED, notes=(f"it cannot be used: {error}",))
        settings = tuple(Setting(name, value) for name, value in definition.values.items())
        notes = tuple(
            f"it stays as it is: write {one.name}, as {one.value!r}, into {definition.file} yourself"
            for one in proposal.settings
            if one.asked and definition.values.get(one.name) != one.value
        )
        step = Step(proposal, ENABLED, settings, notes=notes)
        return self._with_list(step, check) if learn else step

    def _new(self, proposal: Proposal) -> tuple[Step, Check]:
        """The step of a check that is not enabled. Raises DefinitionError or CatalogError."""
        path = self._catalog.link(proposal.check)[1]
        there = ShellFiles(self._paths.share).read_now(path).values if path.exists() else {}
        settings = [
            replace(one, value=there[one.name], why="as its file has it")
            if there.get(one.name, one.value) != one.value
            else one
            for one in proposal.settings
        ]
        chosen = [one for one in settings if one.name not in there]
        values = {**there, **{one.name: one.value for one in settings}}
        check = self._catalog.build(Definition(proposal.check, values, str(path)))
        return Step(proposal, ENABLE, tuple(settings), _file(path, chosen)), check

    def _with_list(self, step: Step, check: Check) -> Step:
        """*step* with what its list has, or will have."""
        if not isinstance(check, Baselined):
            return step
        kept = Kept(check, self._paths)
        if kept.data is not None:
            rows = kept.rows
            notes = () if step.state == ENABLED else ("its list is there already, and stays",)
            return replace(step, entries=len(rows), notes=step.notes + notes)
        if step.state == ENABLED and check.inline:
            return replace(step, entries=len(check.inline))
        with progress(kept.host):
            found = {thing.row for thing in kept.survey()}
        data = baseline.learned(str(check.id), found, b"", kept.trusted_serial, check.order)
        sign = (f"to be signed, and then it counts: baseline sign {kept.path.name}",) if kept.keys else ()
        return replace(step, list=data, list_path=kept.path, entries=len(found), notes=step.notes + sign)

    def write(self, steps: Iterable[Step]) -> None:
        """Write and enable all of *steps*, or nothing. Raises CatalogError."""
        changing = [step for step in steps if step.changes]
        try:
            with StagedFiles() as staged:
                for step in changing:
                    link, target = self._catalog.link(step.proposal.check)
                    if step.list is not None and step.list_path is not None:
                        staged.file(step.list_path, step.list)
                    if step.file is not None:
                        staged.file(target, step.file)
                for step in changing:
                    link, target = self._catalog.link(step.proposal.check)
                    if step.state == ENABLE:
                        staged.link(link, target)
                staged.commit()
        except OSError as error:
            raise CatalogError(f"nothing was enabled: {error.filename}: {error.strerror}") from error


def _names(check: CheckId) -> tuple[str, str]:
    return check.subsystem, check.name


def _file(path: Path, chosen: Iterable[Setting]) -> bytes | None:
    """The file at *path* with what was *chosen* besides; None: it needs nothing. Raises CatalogError."""
    lines = [assignment(one.name, one.value) for one in chosen]
    try:
        before = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {error.strerror}") from error
    if before is None:
        return encode("\n".join((HEADER, *lines, "")))
    if not lines:
        return None
    return before + (b"" if before.endswith(b"\n") else b"\n") + encode("\n".join((_CHOSEN, *lines, "")))
