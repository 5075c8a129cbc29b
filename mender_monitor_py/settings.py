"""The global settings: one frozen value, made from the ``NAME=value`` lines of config.sh and monitor.conf."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from mender_monitor_py import duration
from mender_monitor_py.model import CRITICAL

T = TypeVar("T")
Parser = Callable[[str], Any]

_YEAR = 366 * 86_400
_LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
# Spellings in files of old versions.
ALIASES = {"MONITOR_D_DIRECOTRY": "MONITOR_D_DIRECTORY"}


def _seconds(least: float = 0) -> Parser:
    def parse(text: str) -> float:
        value = float(duration.seconds(text))
        if not least <= value <= _YEAR:
            raise ValueError(f"{text!r} is not a time from {least:g} s to a year")
        return value

    return parse


def _number(least: int, most: int) -> Parser:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
            raise ValueError(f"{text[:40]!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def _one_of(*words: str) -> Parser:
    def parse(text: str) -> str:
        found = next((word for word in words if word.lower() == text.lower()), None)
        if found is None:
            raise ValueError(f"{text[:40]!r} is not one of {', '.join(words)}")
        return found

    return parse


def _level(text: str) -> str:
    # The server of today draws WARNING too and any other as unknown: that is the user's choice.
    if not re.fullmatch(r"[A-Z][A-Z_]{0,31}", text) or text == "OK":
        raise ValueError(f"{text[:40]!r} is not a level of something bad, such as CRITICAL or WARNING")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text[:40]!r} is not an absolute path")
    return text


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s]*", text):
        raise ValueError(f"{text[:40]!r} is not an http or https address")
    return text


def _setting(default: T, parse: Parser, about: str) -> T:
    value: T = field(default=default, metadata={"parse": parse, "about": about})
    return value


@dataclass(frozen=True)
class Settings:
    """
    Every setting with its default. Intervals are seconds; a field is the setting's name in lower case.

    Expirations of 0 mean never; an empty *alert_url* means the device alerts API of the update
    client's server; an empty *daemon_log_file* the journal; an empty *monitor_d_directory* the usual folder.
    """

    alert_url: str = _setting("", _url, "where alerts are sent; empty: the update client's server")
    alert_batch_size: int = _setting(20, _number(1, 1000), "alerts in one request")
    alert_requests_per_minute: int = _setting(30, _number(0, 6000), "requests in a minute; 0: no limit")
    alert_offline_store_max_count: int = _setting(1024, _number(1, 1_000_000), "alerts that may wait")
    alert_store_max_record_age_s: float = _setting(
        604_800, _seconds(), "how long an alert may wait; 0: however long"
    )
    alert_log_max_age: float = _setting(86_400, _seconds(), "how long sent alerts are listed; 0: not at all")
    default_alert_store_resend_interval_s: float = _setting(
        60, _seconds(1), "from one attempt to send to the next"
    )
    send_alert_max_interval_s: float = _setting(
        3600, _seconds(), "the longest pause when the server fails; 0: always the interval above"
    )
    config_log_level: str = _setting("INFO", _one_of(*_LOG_LEVELS), f"one of {', '.join(_LOG_LEVELS)}")
    daemon_log_file: str = _setting(
        "", _path, "a file for the daemon's log, 1 MiB at most; empty: the journal"
    )
    default_alert_level: str = _setting(CRITICAL, _level, "the level of an alert when something is wrong")
    default_dbus_alert_level: str = _setting(CRITICAL, _level, "the same, of dbus checks")
    default_log_alert_level: str = _setting(CRITICAL, _level, "the same, of log checks")
    default_service_alert_level: str = _setting(CRITICAL, _level, "the same, of service checks")
    default_dbus_alert_expiration_seconds: float = _setting(
        0, _seconds(), "after how long without another signal an alert is over; 0: never"
    )
    default_log_pattern_expiration_seconds: float = _setting(
        0, _seconds(), "after how long without another match an alert is over; 0: never"
    )
    default_log_lines_before: int = _setting(30, _number(0, 1000), "lines that are sent from before a match")
    default_log_lines_after: int = _setting(30, _number(0, 1000), "lines that are sent from after a match")
    flapping_count_threshold: int = _setting(
        8, _number(2, 1000), "so many changes within the interval are flapping"
    )
    flapping_interval: float = _setting(60, _seconds(1), "the interval in which changes are counted")
    shell_subsystem_interval: float = _setting(2, _seconds(1), "from run to run of a shell subsystem's check")
    shell_subsystem_timeout: float = _setting(60, _seconds(1), "how long such a run may take")
    confpush_interval: float = _setting(
        86_400, _seconds(), "how often the server is told the enabled checks; 0: when they change"
    )
    confpush_other_checks: str = _setting(
        "omit", _one_of("omit", "log"), "what it is told of kinds that it does not know: omit, or log"
    )
    deployment_grace: float = _setting(
        1800, _seconds(), "how long findings are held back while the update client installs; 0: not at all"
    )
    monitor_d_directory: str = _setting("", _path, "the folder of the checks; empty: the usual one")
    device_key: str = _setting(
        "", _path, "the device's private key, where there is no update client; empty: there is one"
    )
    device_identity: str = _setting(
        "/usr/share/mender/identity/mender-device-identity", _path, "the program that prints its identity"
    )


@dataclass(frozen=True)
class Setting:
    """One setting: its *name* in the files, its *default* as it is written there, and what it is."""

    name: str
    default: str
    about: str


def table() -> Iterator[Setting]:
    """Every setting, in the order of the shipped file."""
    for one in fields(Settings):
        default = f"{one.default:g}" if isinstance(one.default, float) else str(one.default)
        yield Setting(one.name.upper(), default, one.metadata["about"])


def from_values(
    values: Mapping[str, str], lines: Mapping[str, int], file: str, base: Settings | None = None
) -> tuple[Settings, list[str]]:
    """
    *values* of *file* over *base*, and a warning, with its line, for each that cannot be used.

    Such a one is the default, as is one with an empty value. Unknown names are somebody else's.
    """
    found: dict[str, Any] = {}
    warnings = []
    for one in fields(Settings):
        name = one.name.upper()
        names = [name, *(old for old, new in ALIASES.items() if new == name)]
        given = next((n for n in names if values.get(n)), None) or next(
            (n for n in names if n in values), None
        )
        if given is None:
            continue
        try:
            found[one.name] = one.metadata["parse"](values[given]) if values[given] else one.default
        except ValueError as error:
            where = f"{file}:{lines[given]}" if lines.get(given) else file
            warnings.append(f"{where}: {given}: {error}; the default is used: {one.default!r}")
            found[one.name] = one.default
    return replace(base or Settings(), **found), warnings
