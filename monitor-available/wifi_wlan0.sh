# Alerts when wlan0 is on another network than expected. Without WIFI_SSID, the first network that is seen is
# learned.
WIFI_INTERFACE=wlan0
# The networks it may be on. One with a space in double quotes, odd bytes in octal, as alerts show them:
# WIFI_SSID='plant-floor "Guest WLAN" caf\303\251'
# The addresses of their access points, for where an evil twin with the right name matters; * is any byte or more:
# WIFI_BSSID="02:00:00:00:01:00 02:00:00:00:02:*"
# The least security: wpa2, wpa3, or any.
WIFI_SECURITY=wpa2
# Being disconnected for so long is an alert too:
# WIFI_REQUIRE=yes
# WIFI_GRACE=60s
