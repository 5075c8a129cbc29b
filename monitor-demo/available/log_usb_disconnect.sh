# A USB device was pulled out. From the journal: Debian has no /var/log/kern.log any more.
SERVICE_NAME="usb_disconnect"
LOG_PATTERN="USB disconnect"
LOG_FILE="@journalctl --dmesg --follow --lines=0 --output=cat"
LOG_PATTERN_EXPIRATION=3600
