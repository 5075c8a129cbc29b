# Errors of mender-connect, the remote terminal.
SERVICE_NAME="mender-connect"
LOG_PATTERN="level=\"?(error|fatal)"
LOG_FILE="@journalctl --follow --lines=0 --output=cat --unit=mender-connect"
LOG_PATTERN_EXPIRATION=3600
