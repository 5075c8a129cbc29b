# Puts alerts into the outbox.
# shellcheck shell=bash

declare -F _mender_monitor_queue >/dev/null && return 0

_mender_monitor_here=${BASH_SOURCE[0]}
[[ $_mender_monitor_here == */* ]] || _mender_monitor_here=./$_mender_monitor_here
# shellcheck source=scripts/shell-lib/common/common.sh
. "${_mender_monitor_here%/*}/../common/common.sh"
unset -v _mender_monitor_here

# The program that reads and writes the outbox; a script's own PATH may not lead to it.
_mender_monitor_hook() {
    PATH=${PATH:-}:/usr/local/bin:/usr/bin mender-monitor-hook "$@"
}

# The arguments of monitor_send_alert go by stdin, each ended by a NUL: an argument of a program holds 128 KiB at
# most (MAX_ARG_STRLEN, execve(2)), and log lines can be longer. The daemon's runner puts its own in this place.
_mender_monitor_queue() {
    printf '%s\0' "$@" | _mender_monitor_hook alert
}
