"""Which commands follow the journal, and how they go on."""

from __future__ import annotations

import pytest

from mender_monitor_py.journalcommand import follows_the_journal, since


@pytest.mark.parametrize(
    ("command", "follows"),
    [
        ("journalctl -f -u cron", True),
        ("/usr/bin/journalctl --follow --namespace=app -n 0", True),
        ("journalctl -f -u 'my unit'", True),
        ("journalctl -u cron", False),
        ("journalctl -f --since today", False),
        ("journalctl -f --after-cursor=x", False),
        ("journalctl -f | grep x", False),
        ('journalctl -f -u "$UNIT"', False),
        ("journalctl -f -u 'unclosed", False),
        ("tail -f /var/log/journalctl", False),
        ("", False),
    ],
)
def test_follows_the_journal(command: str, follows: bool) -> None:
    """A plain journalctl that follows, and was not told from where."""
    assert follows_the_journal(command) is follows


def test_since() -> None:
    """All from a moment before the last line on, whatever number of lines the user asked for."""
    assert since("journalctl -f -n 0", 1_800_000_000.5) == (
        "journalctl -f -n 0 --since=@1799999999.500 --lines=all"
    )
