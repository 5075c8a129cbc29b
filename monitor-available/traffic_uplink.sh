# Alerts when more than TRAFFIC_LIMIT bytes go out over an interface within TRAFFIC_WINDOW, which slides.
# "default" is the interface of the default route; or a name (wwan0), or a glob (wwan*): one alert an interface.
TRAFFIC_INTERFACE=default
# 1M if nothing is said; monitorctl secure chooses by the kind of the link. Set it to what is usual here:
# TRAFFIC_LIMIT=1M
TRAFFIC_WINDOW=1h
# tx: sent, rx: received, both: together. The monitor's own sending counts.
TRAFFIC_DIRECTION=tx
TRAFFIC_INTERVAL=10s
