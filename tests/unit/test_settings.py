"""The global settings: defaults, ranges, and what is said of a value that cannot be used."""

from pathlib import Path

import pytest

from mender_monitor_py.definition import parse
from mender_monitor_py.settings import Settings, from_values, table

PROJECT = Path(__file__).parents[2]
SHIPPED = PROJECT / "scripts/shell-lib/config/config.sh"
MANUAL = PROJECT / "docs/settings.md"

CONTRACT = set(
    """
    ALERT_URL ALERT_LOG_MAX_AGE ALERT_OFFLINE_STORE_MAX_COUNT ALERT_STORE_MAX_RECORD_AGE_S CONFIG_LOG_LEVEL
    CONFPUSH_INTERVAL DAEMON_LOG_FILE DEFAULT_ALERT_LEVEL DEFAULT_ALERT_STORE_RESEND_INTERVAL_S
    DEFAULT_DBUS_ALERT_EXPIRATION_SECONDS DEFAULT_DBUS_ALERT_LEVEL DEFAULT_LOG_ALERT_LEVEL
    DEFAULT_LOG_LINES_AFTER DEFAULT_LOG_LINES_BEFORE DEFAULT_LOG_PATTERN_EXPIRATION_SECONDS
    DEFAULT_SERVICE_ALERT_LEVEL FLAPPING_COUNT_THRESHOLD FLAPPING_INTERVAL MONITOR_D_DIRECTORY
    SEND_ALERT_MAX_INTERVAL_S
    """.split()  # noqa: SIM905 - a table of words
)


def read(text: str, base: Settings | None = None) -> tuple[Settings, list[str]]:
    parsed = parse(text.encode())
    assert parsed is not None
    return from_values(parsed.values, parsed.lines, "/etc/monitor.conf", base)


def test_every_setting_of_the_original_is_one():
    """
    A user's file of the original means the same here.
    """
    assert {setting.name for setting in table()} >= CONTRACT


def test_the_shipped_file_holds_every_setting_with_its_default():
    """
    Names, defaults and the sentence for each are the program's; the file is plain, and right.
    """
    lines = SHIPPED.read_text().splitlines()
    rows = [(setting.name, setting.default, setting.about) for setting in table()]
    assert [(n, d, a) for n, d, a in rows if f"{n}={d}" not in lines] == []
    for name, default, about in rows:
        assert lines[lines.index(f"{name}={default}") - 1] == f"# {about[0].upper()}{about[1:]}."
    assert sum("=" in line and not line.startswith("#") for line in lines) == len(rows)
    assert read(SHIPPED.read_text()) == (Settings(), [])


def test_the_manual_lists_every_setting():
    """
    Name, default and meaning, a row each.
    """
    rows = [line.split("|")[1:4] for line in MANUAL.read_text().splitlines() if line.startswith("| `")]
    assert [[cell.strip(" `") for cell in row] for row in rows] == [
        [setting.name, setting.default, setting.about] for setting in table()
    ]


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("FLAPPING_INTERVAL=2m", "flapping_interval", 120),
        ("CONFPUSH_INTERVAL=1d", "confpush_interval", 86_400),
        ("FLAPPING_COUNT_THRESHOLD=08", "flapping_count_threshold", 8),
        ("SEND_ALERT_MAX_INTERVAL_S=0", "send_alert_max_interval_s", 0),
        ("CONFIG_LOG_LEVEL=debug", "config_log_level", "DEBUG"),
        ("DEFAULT_LOG_ALERT_LEVEL=WARNING", "default_log_alert_level", "WARNING"),
        ("ALERT_URL='https://example.com/x?y'", "alert_url", "https://example.com/x?y"),
        ("MONITOR_D_DIRECTORY=/data/monitor.d", "monitor_d_directory", "/data/monitor.d"),
        ("MONITOR_D_DIRECOTRY=/data/monitor.d", "monitor_d_directory", "/data/monitor.d"),
        ("MONITOR_D_DIRECOTRY=/old MONITOR_D_DIRECTORY=/new", "monitor_d_directory", "/new"),
        ("MONITOR_D_DIRECOTRY=/old MONITOR_D_DIRECTORY=", "monitor_d_directory", "/old"),
    ],
)
def test_a_valid_value_is_used(line, field, value):
    """
    Durations take s, m, h and d; the old misspelling is known.
    """
    settings, warnings = read(line)
    assert (getattr(settings, field), warnings) == (value, [])


@pytest.mark.parametrize(
    "line",
    [
        "FLAPPING_INTERVAL=0",
        "FLAPPING_INTERVAL=often",
        "FLAPPING_INTERVAL=-1",
        "FLAPPING_INTERVAL=1e3",
        "FLAPPING_INTERVAL=9999999d",
        "FLAPPING_COUNT_THRESHOLD=1",
        "DEFAULT_LOG_LINES_AFTER=3.5",
        "DEFAULT_LOG_LINES_AFTER=1001",
        "DEFAULT_LOG_LINES_AFTER=٣",
        "ALERT_BATCH_SIZE=0",
        "CONFIG_LOG_LEVEL=loud",
        "DEFAULT_ALERT_LEVEL=OK",
        "DEFAULT_ALERT_LEVEL=critical!",
        "ALERT_URL=example.com",
        "MONITOR_D_DIRECTORY=monitor.d",
        "DAEMON_LOG_FILE=log",
        "CONFPUSH_OTHER_CHECKS=all",
    ],
)
def test_an_invalid_value_is_the_default_and_a_warning_with_its_line(line):
    """
    The warning names file, line, setting and the default; nothing else is touched.
    """
    settings, warnings = read(f"# a comment\n{line}\n", Settings(flapping_interval=5))
    name = line.partition("=")[0]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"/etc/monitor.conf:2: {name}: ")
    assert getattr(settings, name.lower()) == getattr(Settings(), name.lower())


def test_a_file_goes_over_another_setting_by_setting():
    """
    What the second file does not name stays; an empty value is the default; unknown names are ignored.
    """
    base, _ = read("FLAPPING_INTERVAL=5\nFLAPPING_COUNT_THRESHOLD=5")
    settings, warnings = read("FLAPPING_COUNT_THRESHOLD=\nDEFAULT_LOG_LINES_AFTER=1\nMY_OWN=x", base)
    assert settings == Settings(flapping_interval=5, default_log_lines_after=1)
    assert warnings == []
