"""One alert a finding, and one for all that are too many."""

from __future__ import annotations

import asyncio

import pytest

from mender_monitor_py.model import CRITICAL, OK, Observation, Subject
from mender_monitor_py.subsystems.findings import SUMMARY, Findings
from tests.fakes.judging import JudgingReport


def seen(key, *, event=False):
    return Observation(CRITICAL, f"Bad {key}", Subject(key, "x", "bad"), key=key, event=event)


def findings(report, limit=2, *, events=False, remembers=False):
    return Findings(report, limit, "Many bad things", "all", events=events, remembers=remembers)


def told(report):
    return [(alert.level, alert.name) for alert in report.alerts]


def test_each_finding_has_an_alert_and_an_ok_of_its_own():
    async def scenario():
        report = JudgingReport()
        one = findings(report)
        await one.look([seen("a"), seen("b")], "gone")
        await one.look([seen("a"), seen("b")], "gone")
        await one.look([seen("b")], "gone")
        assert told(report) == [(CRITICAL, "Bad a"), (CRITICAL, "Bad b"), (OK, "Bad a")]
        assert report.alerts[-1].details.description == "gone"

    asyncio.run(scenario())


def test_too_many_at_once_are_one_alert_with_their_number_and_first_names():
    async def scenario():
        report = JudgingReport()
        one = findings(report)
        await one.look(map(seen, "abcde"), "gone")
        assert told(report) == [(CRITICAL, "Bad a"), (CRITICAL, "Bad b"), (CRITICAL, "Many bad things")]
        assert "3 more findings" in report.alerts[-1].details.description
        assert "Bad c (c)" in report.alerts[-1].details.description
        await one.look(map(seen, "abcde"), "gone")
        assert len(report.alerts) == 3
        await one.look(map(seen, "abcdefgh"), "gone")  # two have room, the third one is told too
        assert told(report)[3:] == [(CRITICAL, "Bad f"), (CRITICAL, "Bad g"), (CRITICAL, "Many bad things")]
        await one.look(map(seen, "h"), "gone")
        assert report.open == ["Many bad things"]
        await one.look([], "gone")
        assert report.open == []

    asyncio.run(scenario())


def test_after_a_restart_the_summed_up_findings_are_not_told_again():
    async def scenario():
        report = JudgingReport()
        await findings(report).look(map(seen, "abcde"), "gone")
        count = len(report.alerts)
        again = findings(report)
        await again.look(map(seen, "abcde"), "gone")
        assert len(report.alerts) == count
        await again.look(map(seen, "abcdex"), "gone")
        assert told(report)[count:] == [(CRITICAL, "Bad x")]
        await again.look([], "gone")
        assert report.open == []

    asyncio.run(scenario())


def test_what_came_while_the_daemon_was_stopped_is_told_beside_an_open_summary():
    async def scenario():
        report = JudgingReport()
        await findings(report, remembers=True).look(map(seen, "abcde"), "gone")
        count = len(report.alerts)
        again = findings(report, remembers=True)
        await again.look(map(seen, "abcdexyz"), "gone")
        assert told(report)[count:] == [
            (CRITICAL, "Bad x"),
            (CRITICAL, "Bad y"),
            (CRITICAL, "Many bad things"),
        ]
        assert "Bad z (z)" in report.alerts[-1].details.description
        await again.look([], "gone")
        assert report.open == []
        assert report.memory == ""

    asyncio.run(scenario())


def test_the_members_are_stored_with_the_summary():
    """What the power takes is a daemon between two looks, and never the alert without them."""

    class Stored(JudgingReport):
        def observe(self, observation, memory=None):
            if observation.key == SUMMARY and observation.bad:
                self.at_the_summary = self.memory
            super().observe(observation, memory)

    async def scenario():
        report = Stored()
        await findings(report, remembers=True).look(map(seen, "abcde"), "gone")
        assert report.at_the_summary == '["c", "d", "e"]'

    asyncio.run(scenario())


@pytest.mark.parametrize("memory", ["", "rubbish", "7", "[7]"])
def test_members_that_cannot_be_read_are_what_the_first_look_finds(memory):
    """Too many are not kept either."""

    async def scenario():
        report = JudgingReport()
        await findings(report, remembers=True).look(map(seen, "abcde"), "gone")
        count, report.memory = len(report.alerts), memory
        await findings(report, remembers=True).look(map(seen, "abcde"), "gone")
        assert len(report.alerts) == count

    asyncio.run(scenario())


def test_too_many_members_are_not_kept():
    async def scenario():
        report = JudgingReport()
        await findings(report, remembers=True).look([seen(f"{n:0200}") for n in range(1000)], "gone")
        assert report.memory == ""

    asyncio.run(scenario())


def test_members_of_a_summary_that_is_over_hide_nothing():
    async def scenario():
        report = JudgingReport(memory='["a", "b"]')
        await findings(report, remembers=True).look(map(seen, "ab"), "gone")
        assert told(report) == [(CRITICAL, "Bad a"), (CRITICAL, "Bad b")]

    asyncio.run(scenario())


def test_events_are_renewed_and_summed_up_by_looks():
    async def scenario():
        report = JudgingReport()
        one = findings(report, events=True)
        for key in "abacd":
            one.see(seen(key, event=True))
        assert one.waiting
        await one.summarise()
        assert not one.waiting
        assert told(report) == [(CRITICAL, "Bad a"), (CRITICAL, "Bad b"), (CRITICAL, "Many bad things")]
        assert report.states["a"].repeats == 1
        await one.look([], "gone")  # events have no natural end
        assert report.is_bad(SUMMARY)
        one.see(seen("e", event=True))
        assert told(report)[3:] == [(CRITICAL, "Bad e")]

    asyncio.run(scenario())
