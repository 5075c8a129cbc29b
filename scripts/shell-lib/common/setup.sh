# The settings, the shipped ones first and the user's over them, and where the state is.
# shellcheck shell=bash

declare -F _mender_monitor_settings >/dev/null && return 0

# All paths hang under MENDER_MONITOR_ROOT; it is empty on a device.
_mender_monitor_settings() {
    local file
    for file in usr/share/mender-monitor/config/config.sh etc/mender-monitor/monitor.conf; do
        file=${MENDER_MONITOR_ROOT:-}/$file
        # A setting that bash cannot read is not the script's fault; the daemon tells of it.
        # shellcheck source=/dev/null
        [[ -r $file ]] && { . "$file" || :; }
    done
    return 0
}

_mender_monitor_state=${MENDER_MONITOR_ROOT:-}/var/lib/mender-monitor

_mender_monitor_settings
