# Alerts for each installed Debian package with a known vulnerability for which the archive has an update.
# Needs the package debsecan, and the network: it asks Debian's security tracker.
VULNSCAN_FORMAT=debsecan
# shellcheck disable=SC2016 # the scanner's own shell expands it
VULNSCAN_COMMAND='. /etc/os-release && debsecan --suite "$VERSION_CODENAME" --only-fixed --format detail'
# When: a calendar expression of systemd.time(7), or an interval as 1d. Each device is late by its own part of the splay.
VULNSCAN_SCHEDULE=daily
VULNSCAN_SPLAY=1h
# Debian's tracker gives few vulnerabilities a severity; what has none counts.
VULNSCAN_SEVERITY=high
VULNSCAN_UNRATED=yes
# IDs or globs, of one package with @, to a day with until:
# VULNSCAN_IGNORE="CVE-2024-1234 CVE-2023-*@linux-image-* until=2026-12-31"
VULNSCAN_TIMEOUT=1h
VULNSCAN_MEMORY=512M
