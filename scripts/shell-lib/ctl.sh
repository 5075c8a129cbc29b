#!/bin/sh
# mender-monitorctl at the place where the original add-on has it.
PATH="/usr/local/bin:/usr/bin:$PATH" exec mender-monitorctl "$@"
