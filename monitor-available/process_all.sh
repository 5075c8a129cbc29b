# Alerts for each program that runs and is not in the baseline, however short it lives:
#   monitorctl baseline learn process all
# The list is what runs at that moment. Add what runs now and then, as globs:
#   /usr/bin/*    /usr/bin/python3* /opt/app/**    /usr/bin/dash -c parent:/usr/sbin/cron
PROCESS_MODE=allow
PROCESS_SCRIPTS=yes
PROCESS_HIDDEN=yes
PROCESS_INTERVAL=1m
PROCESS_EXPIRATION=1h
# PROCESS_ALLOW="/usr/bin/* /usr/sbin/* /usr/lib/**"
