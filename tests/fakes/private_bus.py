"""A real dbus-daemon of the tests' own, in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
    <allow send_type="signal"/>
    {policy}
  </policy>
</busconfig>
"""
NO_MONITORS = '<deny send_interface="org.freedesktop.DBus.Monitoring"/>'


class PrivateBus:
    """
    A bus that can be stopped and started; a context manager.

    *policy* is added to the configuration.
    """

    def __init__(self, folder: Path, policy: str = "") -> None:
        self.socket = folder / "bus"
        self.address = f"unix:path={self.socket}"
        self._config = folder / "bus.conf"
        self._config.write_text(CONFIG.format(socket=self.socket, policy=policy))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the bus listens."""
        ours, its = os.pipe()
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={self._config}", "--nofork", f"--print-address={its}"],
            pass_fds=[its],
        )
        os.close(its)
        with open(ours, "rb") as address:  # noqa: PTH123 - a file descriptor
            assert address.readline(), "dbus-daemon did not start"

    def stop(self) -> None:
        """As `systemctl stop dbus` does; the socket file goes too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
