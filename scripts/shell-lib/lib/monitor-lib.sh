# monitor_send_alert, for subsystems, scripts and by hand.
# shellcheck shell=bash

declare -F monitor_send_alert >/dev/null && return 0

_mender_monitor_here=${BASH_SOURCE[0]}
[[ $_mender_monitor_here == */* ]] || _mender_monitor_here=./$_mender_monitor_here
# shellcheck source=scripts/shell-lib/lib/alert-lib.sh
. "${_mender_monitor_here%/*}/alert-lib.sh"
unset -v _mender_monitor_here

# monitor_send_alert LEVEL DESCRIPTION DETAILS SUBJECT_NAME SUBJECT_STATUS SUBJECT_TYPE
#                    [LOG_PATTERN LOG_FILE LINES_BEFORE LINE_MATCHING LINES_AFTER]
#
# DESCRIPTION becomes the alert's name. LINES_* are text, a line each line. Succeeds once the alert is stored;
# it is sent as soon as the server can be reached. The server knows an alert by its name and its subject: an OK
# clears the one with the same.
monitor_send_alert() {
    if (($# < 6)); then
        log_error "monitor_send_alert: $# arguments, 6 are needed:" \
            "LEVEL DESCRIPTION DETAILS SUBJECT_NAME SUBJECT_STATUS SUBJECT_TYPE"
        return 1
    fi
    _mender_monitor_queue "${@:1:11}"
}
