"""Silences in a real outbox: they have an end, whatever happens to the device."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mender_monitor_py import silence
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CheckId, Stamp
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.silence import Silence

CRON, SSH = CheckId("service", "cron"), CheckId("service", "ssh")
NOW = Stamp("boot-1", 1000.0, 1_800_000_000.0, True)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = Outbox(tmp_path / "outbox.db", Limits(), Clock())
    yield found
    found.close()


def after(seconds: float) -> Stamp:
    return replace(NOW, boottime=NOW.boottime + seconds, wall=NOW.wall + seconds)


def test_the_longer_one_counts(outbox: Outbox) -> None:
    """
    A check under two silences is silent until the later end.
    """
    silence.begin(outbox, CRON, 600, "disk", NOW)
    silence.begin(outbox, None, 300, "all", NOW)
    found = silence.active(outbox, NOW)
    assert found.of(CRON) == Silence(600, "disk") and found.of(SSH) == Silence(300, "all")
    found = silence.active(outbox, after(400))
    assert found.of(CRON) == Silence(200, "disk") and found.of(SSH) is None


@pytest.mark.parametrize("known", [True, False])
def test_it_ends_over_reboots(outbox: Outbox, known: bool) -> None:
    """
    With a clock or without one, no number of reboots makes a silence longer than it was asked for.
    """
    silence.begin(outbox, CRON, 600, "disk", replace(NOW, known=known))
    boots = 0
    while silence.active(outbox, Stamp(f"boot {boots}", 5.0, NOW.wall + 100 * boots, known)).checks:
        # Each boot lasts for 100 s, and ends as it should.
        silence.settle(outbox, Stamp(f"boot {boots}", 100.0, NOW.wall + 100 * boots + 100, known))
        boots += 1
        assert boots < 20
    assert boots == 6


def test_a_clock_that_was_set_back_does_not_make_it_longer(outbox: Outbox) -> None:
    """
    Seconds that seem negative have not passed.
    """
    silence.begin(outbox, CRON, 600, "disk", NOW)
    found = silence.active(outbox, Stamp("boot-2", 5.0, NOW.wall - 86_400, True)).of(CRON)
    assert found is not None and found.left == 600


def test_a_clock_that_was_set_back_does_not_make_it_endless(outbox: Outbox) -> None:
    """
    It began by a clock that was years ahead. Once that is noted, the time since boot counts.
    """
    silence.begin(outbox, CRON, 600, "disk", NOW)
    boot = Stamp("boot-2", 5.0, NOW.wall - 1e8, True)
    silence.settle(outbox, boot)
    later = replace(boot, boottime=405.0, wall=boot.wall + 400)
    assert silence.active(outbox, later).checks[CRON].left == 200
    silence.settle(outbox, later)
    assert not silence.active(outbox, replace(boot, boottime=606.0, wall=boot.wall + 601)).checks


def test_what_is_over_is_forgotten(outbox: Outbox) -> None:
    """
    Nothing of old silences stays in the file.
    """
    silence.begin(outbox, CRON, 600, "disk", NOW)
    silence.begin(outbox, None, 600, "disk", NOW)
    silence.settle(outbox, after(700))
    assert outbox.metas("silence/") == {}


def test_what_a_later_version_wrote_is_no_silence(outbox: Outbox) -> None:
    """
    A check that speaks is the safe way.
    """
    outbox.set_meta(f"silence/{CRON.file_name}", '{"until": "dawn"}')
    assert silence.active(outbox, NOW).checks == {}
    silence.settle(outbox, NOW)
