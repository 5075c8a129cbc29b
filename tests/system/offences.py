"""What attackers, and accidents, do to a device: one offence for each scenario of the security checks."""

from __future__ import annotations

from dataclasses import dataclass

SAVED = "/root/attack-demo"
PORT = 4444
# Artifacts: what a device has, one whose installation fails, one whose does not.
FIRST, BAD, GOOD = (f"/root/attack-demo-{name}.mender" for name in ("first", "bad", "good"))
# What Debian's security tracker says of the device: nothing, and something.
FEED, NO_FLAWS, FLAWS = "/srv/feed/bookworm", "/srv/feed/without", "/srv/feed/with"
_SSH = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
_KEYS = "/root/.ssh/authorized_keys"
# Half as much again as is allowed, to the discard port of the gateway.
_SEND = r"""bash -c '
. /etc/mender-monitor/monitor.d/enabled/traffic_uplink.sh
limit=$(numfmt --from=iec "${TRAFFIC_LIMIT:-1M}")
gateway=$(ip -4 route show default | sed -n "s/.* via \([^ ]*\).*/\1/p" | head -n 1)
head -c $((limit * 3 / 2)) /dev/zero >"/dev/udp/$gateway/9"'
"""


@dataclass(frozen=True)
class Offence:
    """
    *commit* and *undo* are scripts for /bin/sh; *alert* is how the name of the expected alert begins.

    *shown* is the *commit* as a person reads it. *needs* is a command that fails where it cannot be done.
    """

    subsystem: str
    title: str
    shown: str
    commit: str
    undo: str
    alert: str
    needs: str = "true"


# It waits until it is seen: a failure by hand leaves nothing that a daemon on a busy machine finds later.
_INSTALL = f"""touch /run/wait; mender install {BAD} & client=$!
for n in $(seq 500); do
    mender-monitorctl status --json | grep -q 'is being installed' && break
    sleep 0.2
done
rm /run/wait; ! wait $client
"""


def _background(command: str, name: str) -> str:
    return f"setsid {command} >/dev/null 2>&1 & echo $! >{SAVED}/{name}"


# Needs a radio of its own: it is committed in a virtual machine, by tests/system/wifi_offence.py.
EVIL_TWIN = Offence(
    "wifi",
    "an evil twin",
    "an open access point has the name of the network",
    "",
    "",
    "Wi-Fi access point changed",
)
OFFENCES = (
    Offence(
        "ports",
        "a back door listens",
        f"a listed program listens on port {PORT}",
        _background(f"systemd-socket-activate --listen=0.0.0.0:{PORT} /bin/cat", "port"),
        f"kill $(cat {SAVED}/port)",
        f"Unexpected open port tcp/{PORT}",
        needs="command -v systemd-socket-activate",
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
        "traffic",
        "data is copied away",
        "more than the limit is sent to the gateway",
        _SEND,
        "true",
        "High data transfer on ",
        needs="ip -4 route show default | grep -q via",
    ),
    Offence(
        "login",
        "a key for root",
        "a key is added to authorized_keys, and used",
        f"ssh-keygen -q -t ed25519 -N '' -f {SAVED}/key && mkdir -p -m 700 /root/.ssh && "
        f"touch {_KEYS} && cp -p {_KEYS} {SAVED}/keys && cat {SAVED}/key.pub >>{_KEYS} && "
        f"{{ ssh {_SSH} -i {SAVED}/key root@127.0.0.1 true || true; }}",
        f"cp -p {SAVED}/keys {_KEYS}",
        "Root login ",
        needs="systemctl is-active ssh",
    ),
    Offence(
        "pid",
        "a service is killed",
        "kill -9 of the main process of sshd",
        'kill -9 "$(systemctl show -P MainPID ssh)"',
        "true",
        "Process ssh restarted",
        needs="systemctl is-active ssh",
    ),
    Offence(
        "deployment",
        "an update that fails",
        "mender install of an artifact that cannot be installed",
        _INSTALL,
        f"mender install {GOOD} && mender commit",
        "Deployment failed",
        needs=f"test -e {BAD}",
    ),
    Offence(
        "vulnscan",
        "a vulnerability",
        "the security tracker tells of one in an installed package",
        f"cp {FLAWS} {FEED}; mender-monitorctl scan debsecan >/dev/null || true",
        f"cp {NO_FLAWS} {FEED}; mender-monitorctl scan debsecan >/dev/null",
        "Vulnerability CVE-",
        needs=f"test -e {FLAWS}",
    ),
)
