"""The findings of the integrity check, as a person reads them."""

from __future__ import annotations

from mender_monitor_py.baseline import quote
from mender_monitor_py.commandline import printable
from mender_monitor_py.integritylist import Verdict
from mender_monitor_py.model import OK, Details, Observation, Subject

CLEARED = "The file is as expected again"
_EXPECTED = "as expected"


def key(path: str, kind: str) -> str:
    """What the finding is known by that *path* is changed, moved or missing, as *kind* says."""
    return f"{kind} {quote(path)}"


def other(path: str, verdict: Verdict, *, level: str, covered: bool) -> Observation:
    """The finding that the file at *path* is another than expected. *covered*: a mount lies over it."""
    shown = printable(path)
    lines = [f"{shown}:", *map(printable, verdict.reasons)]
    if covered:
        lines.append("something is mounted over it")
    return Observation(
        level,
        f"Executable {shown} {verdict.kind}",
        Subject(shown, "file", verdict.kind),
        Details("\n".join(lines)),
        key=key(path, verdict.kind),
        cleared_status=_EXPECTED,
    )


def ended(path: str, kind: str) -> Observation:
    """That finding is over."""
    shown = printable(path)
    subject = Subject(shown, "file", _EXPECTED)
    return Observation(OK, f"Executable {shown} {kind}", subject, Details(CLEARED), key=key(path, kind))
