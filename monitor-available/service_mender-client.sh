# The service mender-client: the update client (client 3 and older).
SERVICE_NAME="mender-client"
SERVICE_TYPE="systemd"
# Where the unit is not installed, there is nothing to watch.
SERVICE_REQUIRED="no"
