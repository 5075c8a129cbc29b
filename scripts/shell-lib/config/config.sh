# shellcheck shell=bash disable=SC2034
# Settings of the device monitor; each with its default.
#
# Edit them here, or put those that differ into /etc/mender-monitor/monitor.conf, which goes over this file. Then:
# systemctl reload mender-monitor. Times are seconds, or a number with s, m, h or d.

# Where alerts are sent; empty: the update client's server.
ALERT_URL=

# Alerts in one request.
ALERT_BATCH_SIZE=20

# Requests in a minute; 0: no limit.
ALERT_REQUESTS_PER_MINUTE=30

# Alerts that may wait.
ALERT_OFFLINE_STORE_MAX_COUNT=1024

# How long an alert may wait; 0: however long.
ALERT_STORE_MAX_RECORD_AGE_S=604800

# How long sent alerts are listed; 0: not at all.
ALERT_LOG_MAX_AGE=86400

# From one attempt to send to the next.
DEFAULT_ALERT_STORE_RESEND_INTERVAL_S=60

# The longest pause when the server fails; 0: always the interval above.
SEND_ALERT_MAX_INTERVAL_S=3600

# One of TRACE, DEBUG, INFO, WARN, ERROR, FATAL.
CONFIG_LOG_LEVEL=INFO

# A file for the daemon's log, 1 MiB at most; empty: the journal.
DAEMON_LOG_FILE=

# The level of an alert when something is wrong.
DEFAULT_ALERT_LEVEL=CRITICAL

# The same, of dbus checks.
DEFAULT_DBUS_ALERT_LEVEL=CRITICAL

# The same, of log checks.
DEFAULT_LOG_ALERT_LEVEL=CRITICAL

# The same, of service checks.
DEFAULT_SERVICE_ALERT_LEVEL=CRITICAL

# After how long without another signal an alert is over; 0: never.
DEFAULT_DBUS_ALERT_EXPIRATION_SECONDS=0

# After how long without another match an alert is over; 0: never.
DEFAULT_LOG_PATTERN_EXPIRATION_SECONDS=0

# Lines that are sent from before a match.
DEFAULT_LOG_LINES_BEFORE=30

# Lines that are sent from after a match.
DEFAULT_LOG_LINES_AFTER=30

# So many changes within the interval are flapping.
FLAPPING_COUNT_THRESHOLD=8

# The interval in which changes are counted.
FLAPPING_INTERVAL=60

# From run to run of a shell subsystem's check.
SHELL_SUBSYSTEM_INTERVAL=2

# How long such a run may take.
SHELL_SUBSYSTEM_TIMEOUT=60

# How often the server is told the enabled checks; 0: when they change.
CONFPUSH_INTERVAL=86400

# What it is told of kinds that it does not know: omit, or log.
CONFPUSH_OTHER_CHECKS=omit

# How long findings are held back while the update client installs; 0: not at all.
DEPLOYMENT_GRACE=1800

# The folder of the checks; empty: the usual one.
MONITOR_D_DIRECTORY=

# The device's private key, where there is no update client; empty: there is one.
DEVICE_KEY=

# The program that prints its identity.
DEVICE_IDENTITY=/usr/share/mender/identity/mender-device-identity
