# Alerts for each set-uid or set-gid executable, and each with file capabilities, that is not in the baseline:
#   monitorctl baseline learn setuid system
SETUID_PATHS="/"
SETUID_BITS="suid sgid caps"
SETUID_INTERVAL=1h
# Other file systems that are mounted below, too: /tmp, /home, data partitions.
SETUID_XDEV=no
# Images of containers have many of them, for their own users:
SETUID_EXCLUDE="/var/lib/docker /var/lib/containers /var/lib/containerd /var/lib/lxc /var/lib/machines"
# More entries, besides the baseline; what is not said of a file may be as it likes:
# SETUID_ALLOW="/usr/bin/sudo mode:4755 owner:0:0, /opt/app/bin/*"
