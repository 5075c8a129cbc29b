# The stored alerts, for scripts. Despite the name, which scripts know, they are in the outbox.
# shellcheck shell=bash

_mender_monitor_here=${BASH_SOURCE[0]}
[[ $_mender_monitor_here == */* ]] || _mender_monitor_here=./$_mender_monitor_here
# shellcheck source=scripts/shell-lib/lib/alert-lib.sh
. "${_mender_monitor_here%/*}/alert-lib.sh"
unset -v _mender_monitor_here

# fixlenstore_count: prints how many alerts wait to be sent.
fixlenstore_count() { _mender_monitor_hook count; }

# fixlenstore_put STRING: stores one raw record. An alert in the server's JSON is sent as that alert. Anything else
# waits in its turn, and is set aside when the sender comes to it: it holds up no other.
fixlenstore_put() { printf '%s' "$1" | _mender_monitor_hook put; }

# keys_nolock: prints the key of each stored alert, one a line, oldest first.
keys_nolock() { _mender_monitor_hook keys; }
