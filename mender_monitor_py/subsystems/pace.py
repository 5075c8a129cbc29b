"""How long to gather events before a look: a first one is looked at soon, a stream of them now and then."""

from __future__ import annotations

import time
from collections import deque

GATHER_S, BURST_S = 0.1, 2.0
_SOON = 10  # looks in _PERIOD_S that come soon
_PERIOD_S = 10.0


class Pace:
    """The pauses before looks."""

    def __init__(self) -> None:
        self._looks: deque[float] = deque(maxlen=_SOON)

    def pause(self) -> float:
        """Seconds to wait before the look that an event asks for now."""
        now = time.monotonic()
        many = len(self._looks) == _SOON and now - self._looks[0] < _PERIOD_S
        self._looks.append(now)
        return BURST_S if many else GATHER_S
