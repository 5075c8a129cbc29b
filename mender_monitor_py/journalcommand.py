"""``journalctl -f`` as the command of a log check: how it goes on after an end, its own or ours."""

from __future__ import annotations

import shlex

OVERLAP_S = 1.0  # an entry may be written a moment after a later one was read
_PROGRAMS = ("journalctl", "/usr/bin/journalctl", "/bin/journalctl")
_FOLLOW = ("-f", "--follow")
_SHELL = frozenset("|&;<>()$`\\\n*?[#~%{")
_PLACED = ("--since", "-S", "--until", "-U", "--cursor", "-c", "--after-cursor")


def follows_the_journal(command: str) -> bool:
    """
    Whether *command* is a plain ``journalctl`` that follows the journal, from where it chooses.

    Such a one shows the last lines again when it is started again, or leaves out those in between.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    if not words or words[0] not in _PROGRAMS or _SHELL & set(command):
        return False
    options = words[1:]
    placed = any(word.startswith(_PLACED) for word in options if word.startswith("-"))
    return not placed and any(word in _FOLLOW for word in options)


def since(command: str, moment: float) -> str:
    """*command* with all that was written since *moment*, seconds since the epoch. See journalctl(1)."""
    return f"{command} --since=@{moment - OVERLAP_S:.3f} --lines=all"
