"""The status that the daemon shows of its checks."""

import json

import pytest

from mender_monitor_py.alertstate import Limits, State, observe
from mender_monitor_py.checkrecords import Record
from mender_monitor_py.model import CRITICAL, OK, CheckId, Observation, Stamp, Subject
from mender_monitor_py.statusfile import check_status, write

CHECK = CheckId("service", "cron")
NOW = Stamp("boot", 1000.0, 1_800_000_000.0, True)
LIMITS = Limits(60, 2)
BAD = Observation(CRITICAL, "Service cron not running", Subject("cron", "service", "not-running"))
GOOD = Observation(OK, BAD.name, Subject("cron", "service", "running"))


def record(*seen: Observation) -> Record:
    state = State()
    for observation in seen:
        state = observe(state, observation, 990.0, LIMITS)[0]
    return Record(LIMITS, True, {"": state}, seen=True)


@pytest.mark.parametrize(
    ("known", "error", "state"),
    [
        (None, "", "starting"),
        (Record(LIMITS, True), "", "starting"),
        (record(GOOD), "", OK),
        (record(BAD), "", CRITICAL),
        (record(BAD, GOOD), "", "flapping"),
        (None, "log_x.sh:3: LOG_PATTERN: nothing to repeat", "failed"),
        (Record(LIMITS, True, unknown="no D-Bus"), "", "unknown"),
    ],
)
def test_the_state_of_a_check_in_a_word(known, error, state):
    """
    A check is starting, good, bad with its level, flapping, unknown with a reason, or failed with one.
    """
    shown = check_status(CHECK, known, error, NOW)
    assert shown["state"] == state
    assert shown["error"] == (error or (known.unknown if known else ""))


def test_since_when_is_wall_time():
    """
    A check that went bad ten seconds ago says so in wall time, and names its finding.
    """
    shown = check_status(CHECK, record(BAD), "", NOW)
    assert shown["since"] == NOW.wall - 10
    assert [finding["name"] for finding in shown["findings"]] == [BAD.name]


def test_the_file_is_replaced_whole(tmp_path):
    """
    A reader never sees half a status.
    """
    path = tmp_path / "status.json"
    for pid in (1, 2):
        write(path, {"pid": pid}, [check_status(CHECK, None, "", NOW)], {"warnings": []})
    assert json.loads(path.read_text())["daemon"] == {"pid": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
