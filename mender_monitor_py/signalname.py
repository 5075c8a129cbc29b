"""How a signal is called; see signal(7)."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """The name of the signal *number*. Most real-time signals have none: of these the number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
