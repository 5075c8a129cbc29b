# Errors of the update client: mender-client up to 3.x, mender-authd and mender-updated since 4.0.
SERVICE_NAME="mender-client"
LOG_PATTERN="(level|severity)=\"?(error|fatal)"
LOG_FILE="@journalctl --follow --lines=0 --output=cat --unit=mender-client --unit=mender-authd --unit=mender-updated"
LOG_PATTERN_EXPIRATION=3600
