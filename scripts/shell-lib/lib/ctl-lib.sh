# mender-monitorctl: the program does it.
#
# The original add-on keeps helpers of its own here, which its documentation does not offer to scripts. This file
# is here so that a script which sources it goes on working.
# shellcheck shell=bash
