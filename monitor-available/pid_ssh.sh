# Alerts when the main process of ssh.service is another one than before, or does not run any more.
PID_SERVICE=ssh
# How long it may be away before it counts as not running:
# PID_GRACE=10s
# It need not run; only a restart is an alert:
# PID_REQUIRE=no
# A restart stays CRITICAL for this long after the last one:
# PID_EXPIRATION=1h
