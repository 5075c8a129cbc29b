# Settings of the device monitor; each with its default.
#
# Edit them here, or put those that differ into /etc/mender-monitor/monitor.conf, which goes over this file. Then:
# systemctl reload mender-monitor. Intervals, ages and expirations are seconds; an expiration of 0 is never.

# Where alerts are sent to. Empty: the server of the update client.
ALERT_URL=
# Alerts in one request.
ALERT_BATCH_SIZE=20
# Alerts that wait to be sent: how many are kept, and for how long.
ALERT_OFFLINE_STORE_MAX_COUNT=1024
ALERT_STORE_MAX_RECORD_AGE_S=604800
# How long the list of sent alerts is kept.
ALERT_LOG_MAX_AGE=86400
# How often sending is tried again; on errors of the server ever more slowly, up to the second. With 0 as the second
# the first alone counts.
DEFAULT_ALERT_STORE_RESEND_INTERVAL_S=60
SEND_ALERT_MAX_INTERVAL_S=3600

# TRACE, DEBUG, INFO, WARN, ERROR or FATAL.
CONFIG_LOG_LEVEL=INFO
# A file to log to. Empty: the journal.
DAEMON_LOG_FILE=

# The level of an alert when something is wrong.
DEFAULT_ALERT_LEVEL=CRITICAL
DEFAULT_DBUS_ALERT_LEVEL=CRITICAL
DEFAULT_LOG_ALERT_LEVEL=CRITICAL
DEFAULT_SERVICE_ALERT_LEVEL=CRITICAL
# After how long without another match an alert is over.
DEFAULT_DBUS_ALERT_EXPIRATION_SECONDS=0
DEFAULT_LOG_PATTERN_EXPIRATION_SECONDS=0
# Lines of the log that are sent with a match.
DEFAULT_LOG_LINES_BEFORE=30
DEFAULT_LOG_LINES_AFTER=30

# That many changes within that time are flapping, which is one alert.
FLAPPING_COUNT_THRESHOLD=8
FLAPPING_INTERVAL=60

# A check of a shell subsystem: from run to run, and how long a run may take.
SHELL_SUBSYSTEM_INTERVAL=2
SHELL_SUBSYSTEM_TIMEOUT=60

# How often the server is told which checks are enabled, besides at each change. Checks of which it does not know the
# kind: omit or log.
CONFPUSH_INTERVAL=86400
CONFPUSH_OTHER_CHECKS=omit

# The folder of the checks. Empty: /etc/mender-monitor/monitor.d
MONITOR_D_DIRECTORY=

# For a device without the update client: its key, and the program that prints its identity. Empty: the update client
# is asked for the token.
DEVICE_KEY=
DEVICE_IDENTITY=/usr/share/mender/identity/mender-device-identity
