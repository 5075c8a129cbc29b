"""How long to wait before the next request."""

from __future__ import annotations

from dataclasses import dataclass

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Pace:
    """*interval* seconds between attempts; backing off doubles it up to *cap* (0: it stays)."""

    interval: float
    cap: float


def delay(failures: int, pace: Pace, chance: float, retry_after: float | None = None) -> float:
    """
    Seconds to wait after *failures* failures in a row (from 1).

    Full jitter: anything up to the interval doubled with each failure, as *chance* (0 to 1) has it, so that
    a fleet does not come back all at once. Never sooner than the server asks by *retry_after*, which is
    believed up to a day.
    """
    if pace.cap <= 0:
        wait = pace.interval
    else:
        doublings = min(max(failures - 1, 0), 32)
        wait = chance * min(pace.interval * 2**doublings, pace.cap)
    asked = min(max(retry_after or 0.0, 0.0), _DAY)
    return max(wait, asked, 1.0)


class Budget:
    """
    Requests that may be made: never more than *per_minute* within any minute (0: no limit).

    A third of them may come at once, so that a single alert does not wait; times are seconds on one clock.
    """

    def __init__(self, per_minute: int) -> None:
        self._burst = max(per_minute // 3, 1)
        self._spacing = 60 / max(per_minute - self._burst, 1) if per_minute > 0 else 0.0
        self._full_at = float("-inf")  # when all of the burst is free again

    def wait(self, now: float) -> float:
        """Seconds until the next request may be made; 0: now."""
        return max(self._full_at - (self._burst - 1) * self._spacing - now, 0.0)

    def spend(self, now: float, requests: int = 1) -> None:
        """So many were made."""
        self._full_at = max(self._full_at, now) + requests * self._spacing
