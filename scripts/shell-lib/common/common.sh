# What every subsystem and script sources first: the settings and the log.
# shellcheck shell=bash

declare -F _mender_monitor_log >/dev/null && return 0

_mender_monitor_here=${BASH_SOURCE[0]}
[[ $_mender_monitor_here == */* ]] || _mender_monitor_here=./$_mender_monitor_here
# shellcheck source=scripts/shell-lib/common/setup.sh
. "${_mender_monitor_here%/*}/setup.sh"
# shellcheck source=scripts/shell-lib/common/log.sh
. "${_mender_monitor_here%/*}/log.sh"
unset -v _mender_monitor_here
