"""``monitor_send_alert`` of the shell library: its arguments as an alert."""

from __future__ import annotations

from mender_monitor_py.model import Alert, Details, Line, Subject

# What one call may hold in all. Its lines are cut further when the alert is stored.
MAX_SIZE = 4 * 1024 * 1024

_NEEDED, _MOST = 6, 11


def parse(data: bytes) -> Alert:
    """
    The alert that a call asks for; *data* is its arguments, each ended by a NUL.

    Bytes that are no UTF-8 stay as surrogates (PEP 383): they are shown escaped when the alert is sent.
    Raises ValueError with a reason for the user.
    """
    if len(data) > MAX_SIZE:
        raise ValueError(f"an alert of more than {MAX_SIZE} bytes")
    arguments = data.decode(errors="surrogateescape").split("\0")[:-1][:_MOST]
    if len(arguments) < _NEEDED:
        raise ValueError(f"{len(arguments)} arguments, {_NEEDED} are needed")
    level, name, description, subject, status, kind = arguments[:_NEEDED]
    pattern, file, before, matching, after = (*arguments[_NEEDED:], *[""] * (_MOST - len(arguments)))
    if not level or not name or not subject:
        raise ValueError("the level, the description and the subject's name must not be empty")
    return Alert(
        name,
        level.upper(),
        Subject(subject, kind, status),
        _details(_with_source(description, pattern, file), before, matching, after),
    )


def _details(description: str, before: str, matching: str, after: str) -> Details:
    if not (before or matching or after):
        return Details(description)
    above, below = _lines(before), _lines(after)
    numbered = [
        Line(number, data) for number, data in enumerate([*above, matching.removesuffix("\n"), *below], 1)
    ]
    at = len(above)
    return Details(description, tuple(numbered[:at]), numbered[at], tuple(numbered[at + 1 :]))


def _lines(text: str) -> list[str]:
    """The lines of *text*; a final newline ends the last one. bash's lines end at ``\\n`` alone."""
    return text.removesuffix("\n").split("\n") if text else []


def _with_source(description: str, pattern: str, file: str) -> str:
    """The pattern and the file have no field of their own in an alert: the description says them."""
    if (not pattern or pattern in description) and (not file or file in description):
        return description
    source = " in ".join(part for part in (pattern, file) if part)
    return f"{description} ({source})" if description else source
