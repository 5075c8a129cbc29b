# Alerts for each executable that has another content, is another file, or is gone:
#   monitorctl baseline learn integrity core
# What learn takes into the list: programs, and the libraries that all of them rest on.
INTEGRITY_FILES="/usr/bin/* /usr/sbin/* /bin/* /sbin/* /usr/local/bin/* /usr/local/sbin/* /usr/lib/systemd/systemd* /usr/lib/*/ld-linux*.so* /usr/lib/*/libc.so.* /usr/lib/*/libcrypto.so.* /usr/lib/*/security/*.so"
INTEGRITY_INTERVAL=1h
INTEGRITY_FULL_INTERVAL=1d
INTEGRITY_RATE=20M
# For file systems whose inodes are not steady (some overlays, network and FAT file systems):
# INTEGRITY_INODE=no
