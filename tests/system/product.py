"""The product on a device: installed, and given a server to talk to."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mender_monitor_py.receiver.validation import timestamp
from tests.fakes.receiver import SOURCE, Alert, ReceiverProcess
from tests.system.device import WAIT_SECONDS, Device

MODULES = "/usr/lib/python3/dist-packages"
UNITS = ("mender-monitor.service", "mender-monitor-runner.socket", "mender-monitor-sender.socket")
# The device's network is its own: every port is free.
PORT = 8080
URL = f"http://127.0.0.1:{PORT}"
IDENTITY = "/usr/share/mender/identity/mender-device-identity"
# Tests change states often, and do not wait a minute for what a server's return does not announce.
SETTINGS = (
    "DEFAULT_ALERT_STORE_RESEND_INTERVAL_S=3\nSEND_ALERT_MAX_INTERVAL_S=0\nFLAPPING_COUNT_THRESHOLD=100\n"
)


def install_product(root: Path) -> None:
    """This checkout, installed in the file system *root* as a package would."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(
        SOURCE / "mender_monitor_py", root / MODULES.lstrip("/") / "mender_monitor_py", ignore=ignored
    )
    for command in (
        [str(SOURCE / "scripts/install-data"), str(root)],
        [str(SOURCE / "scripts/programs"), str(root / "usr/bin"), "/usr/bin/python3", MODULES],
        ["chroot", str(root), "systemd-sysusers"],
        ["chroot", str(root), "systemctl", "enable", *UNITS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command} failed: {done.stderr}"


def know_server(root: Path, *, update_client: bool, settings: str = SETTINGS) -> None:
    """The device has an identity and a server: by Debian's update client, or with a key of its own."""
    write(root / "etc/mender/mender.conf", json.dumps({"ServerURL": URL}))
    # Debian's package makes /var/lib/mender a link to it.
    write(root / "data/mender/device_type", "device_type=test\n")
    write(root / "etc/mender/artifact_info", "artifact_name=test\n")
    script = root / IDENTITY.lstrip("/")
    write(script, "#!/bin/sh\necho mac=02:00:00:00:00:01\n")
    script.chmod(0o755)
    if update_client:
        (root / "etc/systemd/system/mender-client.service").unlink()
        subprocess.run(["chroot", root, "systemctl", "--quiet", "enable", "mender-client"], check=True)
    else:
        key = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write(root / "etc/mender-monitor/device.pem", key.decode())
        (root / "etc/mender-monitor/device.pem").chmod(0o600)
        settings += "DEVICE_KEY=/etc/mender-monitor/device.pem\n"
    write(root / "etc/mender-monitor/monitor.conf", settings)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Site:
    """A device with the product, and the server that it talks to."""

    def __init__(self, device: Device, server: ReceiverProcess) -> None:
        self.device = device
        self.server = server

    def watch(self, subsystem: str, name: str, *arguments: str) -> None:
        """Create and enable a check, and wait until the daemon has looked."""
        words = shlex.join([subsystem, name])
        self.device.run(f"mender-monitorctl create {words} {shlex.join(arguments)}")
        self.device.run(f"mender-monitorctl enable {words}")
        self.device.wait_until(lambda: self.state(subsystem, name) in ("OK", "CRITICAL"))

    def state(self, subsystem: str, name: str) -> str:
        """What the daemon says of a check; empty: it does not know it (yet)."""
        status = self.status()
        wanted = (subsystem, name)
        found = [
            check["state"] for check in status["checks"] if (check["subsystem"], check["name"]) == wanted
        ]
        return found[0] if found else ""

    def status(self) -> dict[str, Any]:
        """What ``mender-monitorctl status`` knows."""
        status: dict[str, Any] = json.loads(self.device.run("mender-monitorctl status --json"))
        return status

    def expect(self, name: str, *levels: str, seconds: float = WAIT_SECONDS) -> list[Alert]:
        """
        Wait until the alerts of this *name* have been *levels*, all of them in this order.

        Returns these alerts. Raises AssertionError after *seconds*.
        """

        def named(alerts: list[Alert]) -> list[Alert]:
            return [alert for alert in alerts if alert["name"] == name]

        wanted = list(levels)
        return named(self.server.wait_for(lambda got: [a["level"] for a in named(got)] == wanted, seconds))

    def now(self) -> float:
        """The device's clock, in seconds since the epoch."""
        return float(self.device.run("date +%s.%N"))


def assert_between(before: float, alert: Alert, after: float) -> None:
    """The time of *alert* lies between two readings of its device's clock; it has milliseconds."""
    assert before - 0.001 <= timestamp(alert["timestamp"]) <= after + 0.001, alert


@contextmanager
def site(
    folder: Path,
    *,
    update_client: bool = False,
    suite: str = "bookworm",
    settings: str = SETTINGS,
    fanotify: bool = False,
    furnish: Callable[[Path], None] = lambda root: None,
    artifacts: Path | None = None,
) -> Iterator[Site]:
    """
    A device with the product, and a server in its network; see :class:`Device` for *fanotify*.

    *furnish* gets its root file system before the first boot. The server deploys what is in *artifacts*.
    """

    def prepare(root: Path) -> None:
        install_product(root)
        know_server(root, update_client=update_client, settings=settings)
        for name, text in SERVICES.items():
            write(root / f"etc/systemd/system/{name}.service", text)
        furnish(root)
        server.start()

    device = Device(prepare, suite, fanotify=fanotify)
    options = ["--port", str(PORT), "--database", str(folder / "server.db")]
    if artifacts is not None:
        options += ["--artifacts", str(artifacts)]
    server = ReceiverProcess(folder, *options, prefix=device.in_network)
    try:
        with device:
            yield Site(device, server)
    finally:
        server.stop()


SERVICES = {
    "victim": "[Service]\nExecStart=/bin/sleep infinity\n",
    "talker": "[Service]\nType=oneshot\nExecStart=/bin/echo the pump failed\n",
}
