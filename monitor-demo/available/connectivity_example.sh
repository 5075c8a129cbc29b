# Whether a web address answers. CONNECTIVITY_INTERFACE=eth0 asks through that interface.
CONNECTIVITY_URL="https://example.com/"
CONNECTIVITY_INTERFACE=
