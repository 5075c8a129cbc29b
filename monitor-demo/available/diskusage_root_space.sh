# The space on the root file system.
DISKUSAGE_NAME="/"
DISKUSAGE_THRESHOLD=80
