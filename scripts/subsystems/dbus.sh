#!/bin/sh
# The dbus subsystem. mender-monitord has it built in and does not run this file; it is here because scripts and
# people look for it. Its variables: mender-monitorctl help dbus
