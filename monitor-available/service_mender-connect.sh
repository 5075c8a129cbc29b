# The service mender-connect: remote terminal and file transfer.
SERVICE_NAME="mender-connect"
SERVICE_TYPE="systemd"
# Where the unit is not installed, there is nothing to watch.
SERVICE_REQUIRED="no"
