"""What the service manager is told; see sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time


class Notify:
    """
    Sends states to the socket that ``NOTIFY_SOCKET`` names; does nothing without one.

    *watchdog* is the time within which the manager wants a sign of life, in seconds (0: it does not).
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        pid = os.environ.pop("WATCHDOG_PID", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        mine = not pid or pid == str(os.getpid())
        self.watchdog = int(usec) / 1e6 if usec.isdecimal() and mine and self._address else 0.0

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """To be followed by :meth:`ready`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(state.encode(), self._address)
            except OSError:
                # The manager is restarting: it will ask again, and a monitor goes on.
                return
