# The service mender-updated: the update client (client 4 and newer).
SERVICE_NAME="mender-updated"
SERVICE_TYPE="systemd"
# Where the unit is not installed, there is nothing to watch.
SERVICE_REQUIRED="no"
