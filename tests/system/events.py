"""What happens on a device in a test, and whether the server was told just that."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.receiver import Alert
from tests.system.product import Site, assert_between

RETURN_SECONDS = 120


class Events:
    """What happened on a device, in order: the name and level of each alert, and the clock around it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.expected: list[tuple[str, str]] = []
        self._times: list[tuple[float, float]] = []

    def happen(self, action: str | Callable[[], object], name: str, level: str) -> None:
        """Do *action*, a command on the device or a function, and wait until its alert is stored."""
        before = self._site.now()
        count = self._waiting()
        if callable(action):
            action()
        else:
            self._site.device.run(action)
        self._site.device.wait_until(lambda: self._waiting() > count)
        self.expected.append((name, level))
        self._times.append((before, self._site.now()))

    def _waiting(self) -> int:
        return int(self._site.status()["outbox"]["waiting"])

    def arrived(self, alerts: list[Alert]) -> bool:
        return len(alerts) >= len(self.expected)

    def check(self, alerts: list[Alert]) -> None:
        """Assert that *alerts* are these events: all, in order, once, with their times."""
        assert [(alert["name"], alert["level"]) for alert in alerts] == self.expected
        for alert, (before, after) in zip(alerts, self._times, strict=True):
            assert_between(before, alert, after)
