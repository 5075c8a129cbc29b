"""The global settings: one frozen value, made from the ``NAME=value`` lines of config.sh and monitor.conf."""

from __future__ import annotations

from dataclasses import dataclass

from mender_monitor_py.model import CRITICAL


@dataclass(frozen=True)
class Settings:
    """
    Every setting with its default. Intervals are seconds; a field is the setting's name in lower case.

    Expirations of 0 mean never; an empty *alert_url* means the device alerts API of the update
    client's server; an empty *daemon_log_file* the journal.
    """

    alert_url: str = ""
    alert_log_max_age: float = 86_400
    alert_offline_store_max_count: int = 1024
    alert_store_max_record_age_s: float = 604_800
    alert_batch_size: int = 20
    alert_requests_per_minute: int = 30
    config_log_level: str = "INFO"
    confpush_interval: float = 86_400
    confpush_other_checks: str = "omit"
    daemon_log_file: str = ""
    default_alert_level: str = CRITICAL
    default_alert_store_resend_interval_s: float = 60
    default_dbus_alert_expiration_seconds: float = 0
    default_dbus_alert_level: str = CRITICAL
    default_log_alert_level: str = CRITICAL
    default_log_lines_after: int = 30
    default_log_lines_before: int = 30
    default_log_pattern_expiration_seconds: float = 0
    default_service_alert_level: str = CRITICAL
    device_key: str = ""
    device_identity: str = "/usr/share/mender/identity/mender-device-identity"
    flapping_count_threshold: int = 8
    flapping_interval: float = 60
    monitor_d_directory: str = ""
    send_alert_max_interval_s: float = 3600
    shell_subsystem_interval: float = 2
    shell_subsystem_timeout: float = 60
