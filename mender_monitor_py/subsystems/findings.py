"""One alert a finding, for checks over a set; more than a few new ones at once share a summary."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from mender_monitor_py.model import CRITICAL, Details, Observation, Subject
from mender_monitor_py.subsystems.base import Report

SUMMARY = "+more"
BASELINE = "+baseline"  # the list itself is not trusted: that begins and ends with the list, not with a look
_NAMED = 10
_MAX_SUMMED = 100_000
_MAX_PASSED = 100
_MAX_REMEMBERED = 32 * 1024  # bytes


class Findings:
    """
    Tells the findings of one check.

    *limit* is how many new ones in one look are told each by itself. *name* is the summary's alert name,
    *subject* what it is about, *level* its level. *events*: the findings have no natural end, nor has
    their summary. *members* are the keys that the summary stood for in an earlier run; None: not kept.
    *key* is the summary's own, for a check that has several. *remembers*: the check has no memory of its
    own, so that it is the members'.
    """

    def __init__(
        self,
        report: Report,
        limit: int,
        name: str,
        subject: str,
        level: str = CRITICAL,
        *,
        events: bool = False,
        members: Collection[str] | None = None,
        key: str = SUMMARY,
        remembers: bool = False,
    ) -> None:
        self._report = report
        self._remembers = remembers
        if remembers and report.is_bad(key):
            members = _members(report.memory)
        self._limit = limit
        self._summary = Observation(level, name, Subject(subject, "summary", "many"), key=key, event=events)
        self._summed = set(members or ())
        self._rest: list[Observation] = []  # the first ones, to be named
        self._waiting = 0
        self._room = limit
        self._passed: dict[str, Observation] = {}  # events that are summed up, and that nobody was told of
        # Where the summary's members are not known after a restart, what the first look finds belongs to it.
        self._resumed = members is None and report.is_bad(key)

    @property
    def members(self) -> frozenset[str]:
        """The keys of the findings that the summary stands for."""
        return frozenset(self._summed)

    async def look(self, found: Iterable[Observation], cleared: str, *, fresh: bool = True) -> None:
        """
        A look at everything has found *found*. What was found before and is not now has ended: *cleared*.

        Not *fresh*: it is a second one within the same period, for which *limit* counts. Raises OutboxError.
        """
        found = list(found)
        if fresh:
            self._room = self._limit
        if not self._report.silent:
            self._passed.clear()
        kept_back = self._report.is_kept_back(self._summary.key)
        stood_for = self._take_back(found) if kept_back else None
        keys = {BASELINE, *self._passed}
        for seen in found:
            keys.add(seen.key)
            self.see(seen)
        if self._summed == stood_for:
            self._rest, self._waiting = [], 0
        await self.summarise()
        self._summed &= keys
        if self._summed:
            keys.add(self._summary.key)
        self._remember()
        self._resumed = False
        self._report.gone(keys, cleared)
        self._report.known()

    def _take_back(self, found: Collection[Observation]) -> set[str]:
        """
        A summary that nobody was told yet, in a silence or a hold, is made anew of what is *found* now.

        Else the one finding that is left of many would be told by the names of the others. The events that it
        stands for stay: no look finds them again. The keys that its text was made of until now.
        """
        stood_for = set() if self._waiting else self._summed
        self._summed, self._resumed = set(self._passed), False
        self._rest, self._waiting = list(self._passed.values())[:_NAMED], len(self._passed)
        self._room = max(self._limit - sum(self._report.is_kept_back(seen.key) for seen in found), 0)
        return stood_for

    def see(self, seen: Observation, memory: str | None = None) -> bool:
        """
        One finding. It is told now, or by :meth:`summarise` when this look had too many.

        *memory* is kept with what is told now. Whether the report was given it.
        """
        if self._report.is_bad(seen.key):
            # What is bad already and stays so is no news; an event is renewed by each repetition.
            if seen.event:
                self._report.observe(seen, memory)
            return seen.event
        if seen.key in self._summed or self._resumed:
            self._summed.add(seen.key)
        elif self._room > 0:
            self._room -= 1
            self._report.observe(seen, memory)
            return True
        elif self._report.silent and self._summary_is_told and not seen.event:
            pass  # it waits for a look that has room, or that may tell: by then it may be none any more
        elif len(self._summed) < _MAX_SUMMED:
            self._summed.add(seen.key)
            self._waiting += 1
            if seen.event and self._report.silent and len(self._passed) < _MAX_PASSED:
                self._passed[seen.key] = seen
            if len(self._rest) < _NAMED:
                self._rest.append(seen)
        return False

    @property
    def _summary_is_told(self) -> bool:
        key = self._summary.key
        return self._report.is_bad(key) and not self._report.is_kept_back(key)

    @property
    def waiting(self) -> bool:
        """Whether :meth:`summarise` has something to tell."""
        return bool(self._waiting)

    async def summarise(self, memory: str | None = None) -> None:
        """Tell the findings of this look that were too many, and keep *memory*. Raises OutboxError."""
        if not self._waiting:
            return
        first, self._rest = self._rest, []
        count, self._waiting = self._waiting, 0
        names = [f"{seen.name} ({seen.subject.name})" for seen in first]
        more = f"\n… and {count - len(first)} more" if count > len(first) else ""
        text = f"{count} more findings at once:\n" + "\n".join(names) + more
        seen = Observation(
            self._summary.level,
            self._summary.name,
            self._summary.subject,
            Details(text),
            key=self._summary.key,
            event=self._summary.event,
            cleared="None of the findings that were summed up is left",
            cleared_status="none",
        )
        told_before = self._summary_is_told
        self._remember()  # it is stored with the alert
        if memory is not None or not told_before:
            self._report.observe(seen, memory)
        if told_before:  # further ones: a repetition is not sent by itself
            await self._report.tell(seen)

    def _remember(self) -> None:
        if self._remembers:
            self._report.remember(_memory(self._summed))


def _memory(members: Collection[str]) -> str:
    """For :func:`_members`; empty for none, and for more than a restart is worth."""
    if not members or sum(map(len, members)) > _MAX_REMEMBERED:
        return ""
    text = json.dumps(sorted(members))
    return text if len(text) <= _MAX_REMEMBERED else ""


def _members(memory: str) -> list[str] | None:
    """The keys; None: they were not kept."""
    try:
        found = json.loads(memory)
    except ValueError:
        return None
    if not isinstance(found, list) or not all(isinstance(key, str) for key in found):
        return None
    return found
