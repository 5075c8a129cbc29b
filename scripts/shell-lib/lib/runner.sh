#!/bin/bash
# Runs the checks of the shell subsystems: one long-lived bash that forks a subshell a run.
#
# usage: bash lib/runner.sh FOLDER, started by the daemon.
#
# Commands come on stdin, each word ended by a NUL:
#   interval SECONDS                           from run to run of a check
#   add NUMBER SECONDS SUBSYSTEM FILE SCRIPT   run SCRIPT for the check in FILE from now on, for SECONDS at most
#   remove NUMBER                              not any more
# The end of stdin ends everything. A run that is going on then, or when its check is removed, has half a second to
# finish: it may have sent an alert, and be about to write down that it did. FOLDER is the daemon's:
#   NUMBER.out     a FIFO that takes the output of the check's runs
#   calls          a FIFO for lines to the daemon: "ran NUMBER", "slow NUMBER", "alert NUMBER.ID"
#   NUMBER.ID      the arguments of a monitor_send_alert; the daemon removes it once the alert is stored
#   NUMBER.ID.no   the daemon could not
#   never          a FIFO that nobody writes to: reading it with a time limit is a sleep without a fork
#
# All checks run at once, once an interval: a run that follows another finds warm caches and costs half of one that
# comes alone. Job control gives each run a process group of its own. Time is /proc/uptime, in hundredths of a second:
# bash's own clocks jump with the wall clock. Names begin with _mm_, as the runs inherit them.
set -m
# shellcheck disable=SC2034  # read by the functions of the library
readonly _mm_folder=$1 _mm_parallel=32 _mm_grace=50 _mm_slowest=50
# shellcheck source=scripts/shell-lib/common/common.sh
. common/common.sh
# shellcheck source=scripts/shell-lib/lib/monitor-lib.sh
. lib/monitor-lib.sh
# shellcheck source=scripts/shell-lib/lib/alert-lib.sh
. lib/alert-lib.sh
# shellcheck source=scripts/shell-lib/lib/subsystem-storage-lib.sh
. lib/subsystem-storage-lib.sh
# What bash says itself from here on is no news: a job ended by a signal, a process that is gone.
exec {_mm_commands}<&0 </dev/null {_mm_never}<>"$_mm_folder/never" 2>/dev/null

_mm_interval=200
_mm_limit=() _mm_subsystem=() _mm_file=() _mm_script=() # of a check, by its number
_mm_queue=()                                            # the numbers of those to be started, the first one first
_mm_queued=()                                           # not empty for those
_mm_pid=()                                              # the run of a check; its process group has the same number
_mm_until=()                                            # when that run has had its time; "ending" when it was told
_mm_told=()                                             # what the daemon was told last of a check
_mm_calls=0

# In place of the library's own: the daemon stores the alert, which spares the start of a program.
_mender_monitor_queue() {
    local call=$_mm_folder/$_mm_number.$BASHPID-$((++_mm_calls)) tries=6000 _
    printf '%s\0' "$@" >|"$call" && printf 'alert %s\n' "${call##*/}" 1<>"$_mm_folder/calls" || return 1
    while [[ -e $call ]]; do
        read -r -t 0.01 -u "$_mm_never" _ || :
        if [[ -e $call.no ]] || ((--tries == 0)); then
            log_error 'the alert could not be stored'
            return 1
        fi
    done
}

_mm_tell() { # NUMBER WORD
    [[ ${_mm_told[$1]:-} != "$2" ]] || return 0
    _mm_told[$1]=$2
    printf '%s %s\n' "$2" "$1" 1<>"$_mm_folder/calls"
}

_mm_read_clock() {
    local _
    read -r _mm_now _ </proc/uptime
    _mm_now=$((10#${_mm_now/./}))
}

# A process is the run of ours that it was as long as it is our child: a number alone may be another's by now.
# Each return says its status: under a trap, a plain one has that from before the trap (bash(1), "return").
_mm_is_running() { # PID
    local stat
    [[ -e /proc/$1 ]] && read -r stat <"/proc/$1/stat" || return 1
    stat=${stat##*) }
    [[ ${stat:2} == "$$ "* ]]
}

_mm_look_after() { # NUMBER
    local -r pid=${_mm_pid[$1]}
    if ! _mm_is_running "$pid"; then
        # What it left in the background ends with it, or each run would leave some more. A process group keeps its
        # number from being given away: if another process has it, nothing of the group is left.
        [[ -e /proc/$pid ]] || kill -KILL -- "-$pid"
        [[ ${_mm_until[$1]} == ending ]] || _mm_tell "$1" ran
        unset -v "_mm_pid[$1]" "_mm_until[$1]"
    elif [[ ${_mm_until[$1]} == ending ]]; then
        kill -KILL -- "-$pid"
    elif ((_mm_now >= _mm_until[$1])); then
        _mm_tell "$1" slow
        _mm_until[$1]=ending
        kill -TERM -- "-$pid"
    fi
}

_mm_remove() { # NUMBER
    if [[ -n ${_mm_pid[$1]:-} && ${_mm_until[$1]} != ending ]]; then
        _mm_until[$1]=$((_mm_now + _mm_grace))
    fi
    unset -v "_mm_told[$1]" "_mm_limit[$1]" "_mm_subsystem[$1]" "_mm_file[$1]" "_mm_script[$1]"
}

_mm_enqueue() { # NUMBER
    [[ -z ${_mm_queued[$1]:-} ]] || return 0
    _mm_queued[$1]=yes
    _mm_queue+=("$1")
}

_mm_word() { IFS= read -r -d '' -u "$_mm_commands" "$1"; }

_mm_obey() { # COMMAND; seconds come with two decimals
    local number seconds
    case $1 in
        interval)
            _mm_word seconds || return 1
            _mm_interval=$((10#${seconds/./}))
            ;;
        add)
            _mm_word number && _mm_word seconds || return 1
            _mm_limit[number]=$((10#${seconds/./}))
            _mm_word "_mm_subsystem[number]" && _mm_word "_mm_file[number]" || return 1
            _mm_word "_mm_script[number]" || return 1
            _mm_enqueue "$number"
            ;;
        remove)
            _mm_word number || return 1
            _mm_remove "$number"
            ;;
    esac
}

_mm_end() {
    local number
    for number in "${!_mm_script[@]}"; do
        _mm_remove "$number"
    done
    while ((${#_mm_pid[@]} > 0)); do
        read -r -t 0.02 -u "$_mm_never" number || :
        _mm_read_clock
        for number in "${!_mm_pid[@]}"; do
            _mm_look_after "$number"
        done
    done
}
trap _mm_end EXIT
trap 'exit 0' TERM INT HUP

_mm_read_clock
_mm_round=$_mm_now # when all are due again
_mm_pace=1         # hundredths of a second until the runs are looked after
while :; do
    if ((${#_mm_pid[@]} + ${#_mm_queue[@]} > 0)); then
        _mm_wait=$((_mm_now + _mm_pace < _mm_round ? _mm_pace : _mm_round - _mm_now))
    elif ((${#_mm_script[@]} > 0)); then
        _mm_wait=$((_mm_round - _mm_now))
    else
        _mm_wait=8640000
    fi
    ((_mm_wait > 0)) || _mm_wait=1
    printf -v _mm_wait '%d.%02d' "$((_mm_wait / 100))" "$((_mm_wait % 100))"
    if IFS= read -r -t "$_mm_wait" -d '' -u "$_mm_commands" _mm_command; then
        _mm_read_clock
        _mm_obey "$_mm_command" || exit 0
        _mm_pace=1
        continue
    elif (($? <= 128)); then
        exit 0
    fi
    _mm_read_clock
    for _mm_number in "${!_mm_pid[@]}"; do
        _mm_look_after "$_mm_number"
    done
    _mm_pace=$((_mm_pace < _mm_slowest ? 2 * _mm_pace : _mm_slowest))
    if ((_mm_now >= _mm_round)); then
        # Rounds that were missed are not made up for.
        _mm_round=$((_mm_round + _mm_interval > _mm_now ? _mm_round + _mm_interval : _mm_now + _mm_interval))
        for _mm_number in "${!_mm_script[@]}"; do
            _mm_enqueue "$_mm_number"
        done
    fi
    while ((${#_mm_queue[@]} > 0 && ${#_mm_pid[@]} < _mm_parallel)); do
        _mm_number=${_mm_queue[0]}
        _mm_queue=("${_mm_queue[@]:1}")
        unset -v "_mm_queued[$_mm_number]"
        # It was removed, or its last run is still going on.
        [[ -n ${_mm_script[_mm_number]:-} && -z ${_mm_pid[_mm_number]:-} ]] || continue
        # shellcheck disable=SC2034  # the variables are the script's
        (
            # Here and not in a function, where "declare" would make local variables of the user's.
            exec {_mm_commands}<&- 1<>"$_mm_folder/$_mm_number.out" 2>&1
            set --
            # $0 is the script's name, as if it had been started by itself (bash 5).
            BASH_ARGV0=${_mm_script[_mm_number]}
            set -a
            SUBSYSTEM_NAME=${_mm_subsystem[_mm_number]}
            env=${_mm_file[_mm_number]}
            # shellcheck source=/dev/null
            . "$env"
            set +a
            # shellcheck source=/dev/null
            . "${_mm_script[_mm_number]}"
        ) &
        _mm_pid[_mm_number]=$!
        _mm_until[_mm_number]=$((_mm_now + _mm_limit[_mm_number]))
        _mm_pace=10
    done
done
