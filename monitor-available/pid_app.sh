# An example: copy it, and say in one of four ways which process is meant.
PID_EXE=/usr/bin/app
# PID_FILE=/run/app.pid
# PID_SERVICE=app.service
# PID_CMDLINE='^/usr/bin/python3 /opt/app/main\.py( |$)'
PID_EXPIRATION=1h
PID_REQUIRE=yes
