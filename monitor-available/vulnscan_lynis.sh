# Alerts for each warning of the security audit by lynis. Needs the package lynis.
VULNSCAN_FORMAT=lynis
VULNSCAN_COMMAND='lynis audit system --cronjob --no-log'
# What lynis writes; its screen output does not count.
VULNSCAN_REPORT=/var/log/lynis-report.dat
VULNSCAN_SCHEDULE=weekly
VULNSCAN_SPLAY=1h
# Its warnings are high, its suggestions low.
VULNSCAN_SEVERITY=high
# VULNSCAN_IGNORE="KRNL-5830 SSH-* until=2026-12-31"
VULNSCAN_TIMEOUT=1h
