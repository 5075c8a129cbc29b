# Alerts when somebody becomes root, or tries to: over ssh, by sudo, by su, on the console.
LOGIN_USER="root"
LOGIN_METHODS="ssh sudo su console"
LOGIN_ON="success failure"
# What is expected, apart by commas. It is for what succeeds: what was refused is told whatever is listed here.
#   ssh USER NETWORK    sudo USER COMMAND ARGUMENTS    su USER    console USER TERMINAL
# LOGIN_ALLOW="ssh root 10.0.0.0/8, sudo admin /usr/bin/systemctl*, su operator, console root ttyS0"
# A login stays CRITICAL for this long after it was last seen:
LOGIN_EXPIRATION=1h
# Devices without a journal: the file that syslog writes. Local users can forge lines there.
# LOGIN_SOURCE=/var/log/auth.log
