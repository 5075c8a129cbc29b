# subsystem_get and subsystem_set: what a subsystem remembers from run to run, and over a reboot.
#
# One small file a key. Writing replaces it whole, so no reader sees half a value and no lock is needed. A value
# that did not change is not written: flash memory wears.
# shellcheck shell=bash

declare -F _mender_monitor_storage_file >/dev/null && return 0

_mender_monitor_here=${BASH_SOURCE[0]}
[[ $_mender_monitor_here == */* ]] || _mender_monitor_here=./$_mender_monitor_here
# shellcheck source=scripts/shell-lib/common/common.sh
. "${_mender_monitor_here%/*}/../common/common.sh"
unset -v _mender_monitor_here

# subsystem_get SUBSYSTEM KEY: prints the value; an empty line when there is none.
subsystem_get() {
    local file value=
    _mender_monitor_storage_file "$1" "$2"
    # read takes all up to a NUL, which no value holds, and fails at the end of the file.
    [[ ! -r $file ]] || IFS= read -r -d '' value <"$file" || :
    printf '%s\n' "$value"
}

# subsystem_set SUBSYSTEM KEY VALUE
subsystem_set() {
    local file value=
    _mender_monitor_storage_file "$1" "$2"
    if [[ -r $file ]]; then
        IFS= read -r -d '' value <"$file" || :
        [[ $value != "$3" ]] || return 0
    fi
    [[ -d ${file%/*} ]] || mkdir -p -- "${file%/*}" || return 1
    printf '%s' "$3" >|"$file.$BASHPID" && mv -f -- "$file.$BASHPID" "$file"
}

# Sets the caller's variable "file" to where a key of a subsystem is kept.
_mender_monitor_storage_file() {
    local name
    _mender_monitor_as_file_name "${1:?a subsystem is needed}"
    file=$_mender_monitor_state/subsystems/$name
    _mender_monitor_as_file_name "${2:?a key is needed}"
    file+=/$name
}

# Sets the caller's variable "name" to $1 as one path component: letters, digits, - and _ stay, every other byte
# is %XX.
_mender_monitor_as_file_name() {
    local LC_ALL=C byte hex
    local -i at
    name=$1
    [[ $name == *[!A-Za-z0-9_-]* ]] || return 0
    name=
    for ((at = 0; at < ${#1}; at++)); do
        byte=${1:at:1}
        if [[ $byte == [!A-Za-z0-9_-] ]]; then
            printf -v hex '%d' "'$byte"
            printf -v byte '%%%02X' "$((hex & 255))"
        fi
        name+=$byte
    done
}
