"""
The state of one finding: OK and bad, flapping, expiration and renewal.

Values in, values out. Times are seconds on CLOCK_BOOTTIME, given by the caller.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from mender_monitor_py.model import CRITICAL, OK, Alert, Details, Line, Observation, Stamp, Subject

FLAPPING_STATUS = "flapping"


@dataclass(frozen=True, slots=True)
class Limits:
    """
    When a finding flaps, and when an event is over.

    It flaps from *flap_count* changes between good and bad within *flap_window* seconds on. An event is
    over *expires_after* seconds after it was last seen (None: never).
    """

    flap_window: float
    flap_count: int
    expires_after: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """
    What is known of a finding.

    *last* is the newest observation, its lines removed; *changes* the moments of the newest changes;
    *told* and *told_flapping* what the server was told; *repeats* how often a bad thing was seen again.
    *untold*: the details of what came in silence, with their lines, until it is told.
    """

    last: Observation | None = None
    since: float = 0.0
    seen_at: float = 0.0
    changes: tuple[float, ...] = ()
    flapping: bool = False
    told: str = OK
    told_flapping: bool = False
    repeats: int = 0
    untold: Details | None = None

    @property
    def bad(self) -> bool:
        return self.last is not None and self.last.bad

    @property
    def kept_back(self) -> bool:
        """Bad, and the server was not told: it began in a silence, or while something was installed."""
        return self.bad and self.told == OK and not self.told_flapping

    @property
    def idle(self) -> bool:
        """Good, told so, and with no change left to remember: nothing needs to be kept."""
        return not (self.bad or self.told_flapping or self.changes) and self.told == OK


def observe(
    state: State,
    seen: Observation,
    now: float,
    limits: Limits,
    *,
    silent: bool = False,
    held: bool = False,
) -> tuple[State, tuple[Alert, ...]]:
    """
    The state after *seen*, and the alerts to send, in order.

    While the finding is *silent* nothing is sent of what is new; :func:`catch_up` tells it later. *held*: it
    is silent because of a deployment, whose own restarts are no flapping.
    """
    if _is_another(state.last, seen):
        state, late = catch_up(state) if silent and state.last and state.last.event else (state, ())
        closed = close(state, "The check was changed; what it watched before is not watched any more")
        after, alerts = observe(State(), seen, now, limits, silent=silent, held=held)
        return after, (*late, *closed, *alerts)
    changed = seen.bad != state.bad
    changes = _recent(state.changes, now, limits)
    if changed and not held:
        changes = (*changes, now)[-limits.flap_count :]
    after = replace(
        state,
        last=seen.without_lines(),
        since=now if changed or state.last is None else state.since,
        seen_at=now,
        changes=changes,
        flapping=len(changes) >= limits.flap_count,
        repeats=state.repeats + 1 if seen.bad and not changed else 0,
        untold=_untold(state, seen, changed=changed) if silent else None,
    )
    if silent:
        return after, ()
    current = seen.alert()
    untold = state.untold if seen.bad and not changed else None  # it comes again just before it is told
    if untold is not None and seen.event:
        current = replace(current, details=untold)
    return tell(after, current, again=untold is not None)


def tick(
    state: State, now: float, limits: Limits, *, silent: bool = False, held: bool = False
) -> tuple[State, tuple[Alert, ...]]:
    """
    The state when *now* has come without an observation: events expire, flapping ends.

    An event that came in silence does not expire before it was told.
    """
    last = state.last
    if last is None:
        return state, ()
    expires_at = _expires_at(state, limits, silent=silent)
    if expires_at is not None and now >= expires_at:
        return observe(state, _cleared(last, state.repeats), now, limits, silent=silent, held=held)
    changes = _recent(state.changes, now, limits)
    flapping = state.flapping and len(changes) >= limits.flap_count
    after = replace(state, changes=changes, flapping=flapping)
    return (after, ()) if silent else tell(after, last.alert())


def stated(state: State, seen: Observation, now: float, *, silent: bool = False) -> State:
    """
    The state after *seen*, which the check has judged itself: an alert as it stands, a repetition too.

    It was sent. Or, while the finding is *silent*, :func:`catch_up` tells it later: the last one, and how
    many came before.
    """
    if not silent:
        return State(seen.without_lines(), now, now, told=seen.level)
    if not seen.bad:
        return State(seen.without_lines(), now, now, told=state.told)
    repeats = state.repeats + 1 if state.untold is not None else 0
    more = f"\n{repeats} more like it came before it, and were not told" if repeats else ""
    untold = replace(seen.details, description=seen.details.description + more)
    return State(seen.without_lines(), now, now, told=state.told, repeats=repeats, untold=untold)


def tell(state: State, current: Alert, *, again: bool = False) -> tuple[State, tuple[Alert, ...]]:
    """
    The alerts that make the server know what is the case, which is *current* or flapping.

    While something flaps nothing else is told of it; when that ends, its alert is cleared and the state told.
    *again*: *current* is told though the server was told as much before.
    """
    assert state.last is not None
    if state.flapping:
        if state.told_flapping:
            return state, ()
        level = next((level for level in (current.level, state.told) if level != OK), CRITICAL)
        return replace(state, told_flapping=True), (_flapping_alert(state.last, level),)
    if state.told_flapping:
        steady = Details(f"{state.last.subject.name} is steady again")
        calm = replace(_flapping_alert(state.last, OK), details=steady)
        return replace(state, told_flapping=False, told=current.level), (calm, current)
    if again or current.level != state.told:
        return replace(state, told=current.level), (current,)
    return state, ()


def catch_up(state: State) -> tuple[State, tuple[Alert, ...]]:
    """What was not told while the finding was silent."""
    if state.last is None:
        return state, ()
    current = state.last.alert()
    if state.untold is not None:
        current = replace(current, details=state.untold)
    after, alerts = tell(state, current, again=state.untold is not None)
    return (replace(after, untold=None), alerts) if alerts else (after, ())


def may_be_over(state: State) -> bool:
    """Whether :func:`catch_up` would tell something that a look at the device may find to be otherwise."""
    return state.last is not None and not state.last.event and bool(catch_up(state)[1])


def told_at(state: State, now: Stamp) -> Stamp:
    """The moment of what :func:`catch_up` tells of *state*: when it began, not when it may be told."""
    if state.flapping or state.told_flapping:
        return now
    return replace(now, boottime=state.since, wall=now.wall - (now.boottime - state.since))


def next_due(state: State, limits: Limits, *, silent: bool = False) -> float | None:
    """When :func:`tick` has something to do, unless something is observed before. None: never."""
    due = []
    expires_at = _expires_at(state, limits, silent=silent)
    if expires_at is not None:
        due.append(expires_at)
    if state.flapping and state.changes:
        due.append(state.changes[0] + limits.flap_window)
    return min(due, default=None)


def close(state: State, reason: str) -> tuple[Alert, ...]:
    """The alerts that end what the server holds of this finding, when nothing will judge it again."""
    last = state.last
    if last is None:
        return ()
    details = Details(reason)
    alerts = []
    if state.told_flapping:
        alerts.append(replace(_flapping_alert(last, OK), details=details))
    if state.told != OK:
        alerts.append(replace(_cleared(last, 0).alert(), details=details))
    return tuple(alerts)


def encode(state: State, at: Stamp) -> str:
    """*state* as text, with the moment its times are counted from."""
    fields = asdict(state)
    if state.untold is None:  # as earlier versions read it
        del fields["untold"]
    return json.dumps({"at": asdict(at), **fields}, ensure_ascii=True, separators=(",", ":"))


def decode(text: str) -> tuple[State, Stamp]:
    """
    What :func:`encode` wrote.

    Raises ValueError when it is something else: a newer version's, or damaged.
    """
    try:
        fields = json.loads(text)
        at = Stamp(**fields.pop("at"))
        last = fields.pop("last")
        changes = tuple(fields.pop("changes"))
        untold = _details(fields.pop("untold", None))
        return State(last=_observation(last), changes=changes, untold=untold, **fields), at
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a stored state: {error}") from error


def rebase(state: State, saved: Stamp, now: Stamp) -> State:
    """
    The state that was saved at *saved*, with its times on the clock of *now*.

    After a reboot the time that the machine was off is taken from the wall clock where both readings can
    be trusted. Else only the time since boot has passed for certain.
    """
    if saved.boot_id == now.boot_id:
        return state
    passed = now.wall - saved.wall if saved.known and now.known else now.boottime
    shift = now.boottime - max(passed, 0.0) - saved.boottime
    return replace(
        state,
        since=state.since + shift,
        seen_at=state.seen_at + shift,
        changes=tuple(moment + shift for moment in state.changes),
    )


def _observation(fields: dict[str, Any] | None) -> Observation | None:
    if fields is None:
        return None
    subject, details = fields.pop("subject"), fields.pop("details")
    return Observation(subject=Subject(**subject), details=Details(details["description"]), **fields)


def _details(fields: dict[str, Any] | None) -> Details | None:
    if fields is None:
        return None
    matching = fields["line_matching"]
    return Details(
        fields["description"],
        tuple(Line(**line) for line in fields["lines_before"]),
        Line(**matching) if matching is not None else None,
        tuple(Line(**line) for line in fields["lines_after"]),
    )


def _untold(state: State, seen: Observation, *, changed: bool) -> Details | None:
    """
    The details to keep of what is seen in silence: the first ones, where the last ones may say less.

    The last ones have no lines. Of an event that is seen again little may be left: its process has ended.
    """
    if seen.bad and not changed:
        return state.untold
    if not seen.bad or state.told != OK:
        return None
    return seen.details if seen.event or seen.details != seen.without_lines().details else None


def _is_another(last: Observation | None, seen: Observation) -> bool:
    """Whether *seen* is about another alert than *last*, as the server tells them apart."""
    return last is not None and (last.name, last.subject.name, last.subject.type) != (
        seen.name,
        seen.subject.name,
        seen.subject.type,
    )


def _recent(changes: tuple[float, ...], now: float, limits: Limits) -> tuple[float, ...]:
    return tuple(moment for moment in changes if now < moment + limits.flap_window)


def _expires_at(state: State, limits: Limits, *, silent: bool = False) -> float | None:
    if silent and (state.told == OK or state.untold is not None):
        return None
    if limits.expires_after is None or not state.bad or state.last is None or not state.last.event:
        return None
    return state.seen_at + limits.expires_after


def _flapping_alert(seen: Observation, level: str) -> Alert:
    name = seen.flapping_name or f"{seen.name} going up and down"
    subject = Subject(seen.subject.name, seen.subject.type, FLAPPING_STATUS)
    return Alert(name, level, subject, Details(f"{seen.subject.name} keeps changing its state"))


def _cleared(last: Observation, repeats: int) -> Observation:
    status = last.cleared_status or last.subject.status
    description = last.cleared or last.details.description
    if repeats:
        description += f" (it was seen {repeats + 1} times)"
    return replace(
        last,
        level=OK,
        subject=replace(last.subject, status=status),
        details=Details(description),
    )
