"""What attackers, and accidents, do to a device: one offence for each scenario of the security checks."""

from __future__ import annotations

from dataclasses import dataclass

SAVED = "/root/attack-demo"
PORT = 4444


@dataclass(frozen=True)
class Offence:
    """
    *commit* and *undo* are scripts for /bin/sh; *alert* is how the name of the expected alert begins.

    *shown* is the *commit* as a person reads it. *needs* is a program without which it cannot be committed.
    *lasts*: the alert is about an event, and ends when the check's expiration is over.
    """

    subsystem: str
    title: str
    shown: str
    commit: str
    undo: str
    alert: str
    needs: str = ""
    lasts: bool = False


def _background(command: str, name: str) -> str:
    return f"setsid {command} >/dev/null 2>&1 & echo $! >{SAVED}/{name}"


OFFENCES = (
    Offence(
        "ports",
        "a back door listens",
        f"a listed program listens on port {PORT}",
        _background(f"systemd-socket-activate --listen=0.0.0.0:{PORT} /bin/cat", "port"),
        f"kill $(cat {SAVED}/port)",
        f"Unexpected open port tcp/{PORT}",
        needs="systemd-socket-activate",
    ),
    Offence(
        "setuid",
        "a shell for everybody",
        "install -m 4755 /bin/sh /var/tmp/.cache",
        "install -m 4755 /bin/sh /var/tmp/.cache",
        "rm -f /var/tmp/.cache",
        "Unexpected set-uid executable /var/tmp/.cache",
    ),
    Offence(
        "process",
        "a miner",
        "a copy of a program runs from /dev/shm",
        f"cp /bin/sleep /dev/shm/.x; {_background('/dev/shm/.x 600', 'miner')}",
        f"kill $(cat {SAVED}/miner); rm -f /dev/shm/.x",
        "Unexpected process /dev/shm/.x",
        lasts=True,
    ),
    Offence(
        "integrity",
        "an executable changed",
        "/usr/bin/factor gets other content",
        f"cp /usr/bin/factor {SAVED}/factor && printf x >>/usr/bin/factor",
        f"cat {SAVED}/factor >/usr/bin/factor",
        "Executable /usr/bin/factor changed",
    ),
    Offence(
        "integrity",
        "an executable moved",
        "a copy takes the place of /usr/bin/tsort",
        "mv /usr/bin/tsort /usr/bin/.tsort && cp -p /usr/bin/.tsort /usr/bin/tsort",
        "mv -f /usr/bin/.tsort /usr/bin/tsort",
        "Executable /usr/bin/tsort moved",
    ),
    Offence(
        "pid",
        "a service is killed",
        "kill -9 of the main process of sshd",
        'kill -9 "$(systemctl show -P MainPID ssh)"',
        "true",
        "Process ssh restarted",
        needs="systemctl",
        lasts=True,
    ),
)
