# Alerts for each program that is started and is not in the baseline, however short it lives:
#   monitorctl baseline learn process all
PROCESS_MODE=allow
# What learn takes into the list. "running" alone is what runs at that moment: timers, logins and cron start others.
# "installed" is each program on the disk, in /usr, /etc and /opt. What comes later is not expected, wherever it is.
PROCESS_LEARN="running installed"
# An interpreter counts as the script that it runs.
PROCESS_SCRIPTS=yes
PROCESS_HIDDEN=yes
PROCESS_INTERVAL=1m
PROCESS_EXPIRATION=1h
# More entries, as globs. monitorctl secure writes those that this device needs:
# PROCESS_ALLOW="/usr/bin/dash -c, /usr/bin/python3.11 /usr/lib/**, /opt/app/** user:app"
