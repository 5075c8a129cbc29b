# The service mender-authd: the update client's authentication (client 4 and newer).
SERVICE_NAME="mender-authd"
SERVICE_TYPE="systemd"
# Where the unit is not installed, there is nothing to watch.
SERVICE_REQUIRED="no"
