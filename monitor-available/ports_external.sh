# Alerts for each port that can be reached from outside and is not in the baseline:
#   monitorctl baseline learn ports external
PORTS_SCOPE=external
PORTS_PROTOCOLS="tcp udp"
PORTS_INTERVAL=2s
# More entries, besides the baseline: protocol, port or range, process name, executable.
# PORTS_ALLOW="tcp 22 sshd /usr/sbin/sshd, udp 5353 * *"
# Other network namespaces too, those of containers:
# PORTS_NAMESPACES=all
