# log_trace, log_debug, log_info, log_warn, log_error, log_fatal MESSAGE...
#
# One line on stderr, "LEVEL message", from CONFIG_LOG_LEVEL on (INFO when it is not set). The daemon passes the
# lines of its subsystems on to its own log, each at its level.
# shellcheck shell=bash

declare -F _mender_monitor_log >/dev/null && return 0

log_trace() { _mender_monitor_log 0 TRACE "$@"; }
log_debug() { _mender_monitor_log 1 DEBUG "$@"; }
log_info() { _mender_monitor_log 2 INFO "$@"; }
log_warn() { _mender_monitor_log 3 WARN "$@"; }
log_error() { _mender_monitor_log 4 ERROR "$@"; }
log_fatal() { _mender_monitor_log 5 FATAL "$@"; }

_mender_monitor_log() {
    local -r rank=$1 level=$2
    local least=2 IFS=' '
    shift 2
    case ${CONFIG_LOG_LEVEL:-INFO} in
        [Tt][Rr][Aa][Cc][Ee]) least=0 ;;
        [Dd][Ee][Bb][Uu][Gg]) least=1 ;;
        [Ww][Aa][Rr][Nn]*) least=3 ;;
        [Ee][Rr][Rr]*) least=4 ;;
        [Ff][Aa][Tt][Aa][Ll]) least=5 ;;
    esac
    ((rank < least)) || printf '%s %s\n' "$level" "$*" >&2 || :
}
