"""
A/B updates by Debian's update client: to the other slot, and back from one that does not boot.

The server deploys root file system images; the client writes them to the passive slot, reboots, and commits.
The checks' lists and the monitor's own folder are on the data partition.

Minutes of emulation: run it by hand, ``MENDER_MONITOR_SLOTS=yes scripts/test tests/system/test_slots.py``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mender_monitor_py.receiver.validation import timestamp
from tests.fakes.receiver import ReceiverProcess
from tests.system.chroot import Chroot, chroot
from tests.system.product import know_server, write
from tests.system.slots import TwoSlots, make_disk, make_slot, prepare_slots
from tests.system.vm import HOST, unavailable
from tests.system.vmimage import SUITE
from tests.system.vmproduct import Watched, pack

pytestmark = pytest.mark.skipif(
    not os.environ.get("MENDER_MONITOR_SLOTS"), reason="takes minutes: set MENDER_MONITOR_SLOTS=yes"
)

LISTENS = "import socket, signal; s = socket.create_server((str(), {})); signal.pause()"
CHECKS = {
    "deployment mender": "",
    "integrity opt": "'INTEGRITY_FILES=/opt/app/* /opt/other/* /data/app/*'",
    "pid app": "PID_SERVICE=app",
    # The update client listens on the loopback, at another port with each start.
    "ports all": "PORTS_SCOPE=all 'PORTS_ALLOW=tcp 1024-65535 mender /usr/bin/mender'",
    "process all": "'PROCESS_LEARN=running installed'",
    "service app": "SERVICE_NAME=app",
    "setuid system": "",
}
LEARNED = ("integrity opt", "ports all", "process all", "setuid system")
# What is on the old slot alone is gone with it.
GONE = "Executable /opt/other/tool changed"
ATTACK = {
    GONE: "echo evil >>/opt/other/tool",
    "Executable /data/app/tool changed": "echo evil >>/data/app/tool",
    "Unexpected process /opt/other/blink": "cp /bin/true /opt/other/blink; /opt/other/blink",
}
WAITS = "#!/bin/sh\n: >/run/installed\nwhile [ -e /run/wait ]; do sleep 0.2; done\n"


def prepare(root: Chroot, url: str) -> None:
    """What all slots have; the server is at *url*."""
    know_server(root.root, update_client=True, settings="SEND_ALERT_MAX_INTERVAL_S=0\n")
    prepare_slots(root, url)
    services = {
        "app": "/opt/app/daemon infinity",
        "server": f"/opt/app/server -c '{LISTENS.format(8081)}'",
    }
    for name, command in services.items():
        unit = f"[Service]\nExecStart={command}\n[Install]\nWantedBy=multi-user.target\n"
        write(root.path(f"/etc/systemd/system/{name}.service"), unit)
    root.sh(
        "systemctl --quiet enable app server; mkdir -p /opt/app /opt/other; cp /bin/true /opt/other/tool;"
        " cp /bin/sleep /opt/app/daemon; cp /bin/true /opt/app/helper; cp /usr/bin/python3 /opt/app/server"
    )
    for check, variables in CHECKS.items():
        if variables or check in LEARNED:
            root.sh(f"mender-monitorctl create {check} {variables}")
        root.sh(f"mender-monitorctl enable {check}")


def second(root: Path) -> None:
    """The next release: other files, a new program that listens, and a new set-uid executable."""
    for name in ("daemon", "helper", "server"):
        with (root / "opt/app" / name).open("ab") as file:
            file.write(b"release-2\n")
    (root / "opt/app/helper").chmod(0o4755)
    (root / "opt/app/agent").write_bytes((root / "usr/bin/python3").read_bytes())
    (root / "opt/app/agent").chmod(0o755)
    unit = f"[Service]\nExecStart=/opt/app/agent -c '{LISTENS.format(8082)}'\n"
    write(root / "etc/systemd/system/agent.service", unit)
    (root / "etc/systemd/system/multi-user.target.wants/agent.service").symlink_to("../agent.service")


def without_init(root: Path) -> None:
    """The next but one cannot boot."""
    second(root)
    (root / "lib/systemd/systemd").unlink()


class Place(Watched):
    """The device and its server."""

    def __init__(self, device: TwoSlots, server: ReceiverProcess) -> None:
        super().__init__(device)
        self.device = device
        self.server = server

    def deploy(self, release: str) -> str:
        wanted = {"artifact": f"{release}.mender", "name": release, "device_types": ["test"]}
        return str(self.server.request("POST", "/deployments", wanted)["id"])

    def outcome(self, deployment: str) -> str:
        """What the server was told at the end."""
        statuses = {one["id"]: one["status"] for one in self.server.request("GET", "/deployments")}
        return str(statuses[deployment])

    def judged(self) -> None:
        """Returns when nothing is held back, and all is sent."""
        self.until(lambda: not self.holds())
        self.until(lambda: "Outbox: 0 waiting" in self.device.run("mender-monitorctl status"))


@contextmanager
def device_with_slots(folder: Path) -> Iterator[Place]:
    """It runs the first release, and all its checks are well. All its files are in *folder*."""
    share, artifacts, data = folder / "share", folder / "artifacts", folder / "data"
    for name in ("mender", "mender-monitor", "baseline.d", "app"):
        (data / name).mkdir(parents=True)
    share.mkdir()
    artifacts.mkdir()
    write(data / "mender/device_type", "device_type=test\n")
    shutil.copy("/bin/true", data / "app/tool")
    with ReceiverProcess(folder, "--artifacts", str(artifacts)) as server:
        url = f"http://{HOST}:{server.url.rpartition(':')[2]}"
        archive = folder / "product.tar"
        pack(archive, folder / "work", lambda root: prepare(root, url))
        make_slot(folder / "release-1", archive, lambda root: None)
        make_disk(folder / "disk", folder / "release-1", data)
        for release, furnish in (("release-2", second), ("release-3", without_init)):
            make_slot(folder / release, archive, furnish)
            make_artifact(folder, release)
        with TwoSlots(share, folder / "disk") as device:
            place = Place(device, server)
            for check in LEARNED:
                device.run(f"mender-monitorctl baseline learn {check}")
            place.until(lambda: place.are_well(CHECKS))
            place.judged()
            yield place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if reason := unavailable():
        pytest.skip(reason)
    with device_with_slots(tmp_path_factory.mktemp("slots")) as made:
        yield made


def make_artifact(folder: Path, release: str) -> None:
    """The image *release* in *folder*, as an artifact that waits before its installation has ended."""
    with chroot(SUITE, folder / "work") as tool:
        shutil.move(folder / release, tool.path("/root/image.ext4"))
        write(tool.path("/root/ArtifactInstall_Leave_50_wait"), WAITS)
        tool.path("/root/ArtifactInstall_Leave_50_wait").chmod(0o755)
        tool.sh(
            'mender-artifact write rootfs-image -t test -n "$1" -f /root/image.ext4 -o /root/artifact'
            " --compression none -s /root/ArtifactInstall_Leave_50_wait",
            release,
        )
        target = folder / "artifacts" / f"{release}.mender"
        shutil.move(tool.path("/root/artifact"), target)


def test_an_update_to_the_other_slot(place: Place) -> None:
    """
    What the update brought is no alert, and what was done to the old slot alone is over. What is still so is
    told after the commit, with the time at which it was done.
    """
    device = place.device
    known = len(place.server.alerts())
    device.run("touch /run/wait")
    deployment = place.deploy("release-2")
    device.run("until [ -e /run/installed ]; do sleep 0.2; done", seconds=300)
    place.until(place.holds)
    began = float(device.run("date +%s"))
    for command in ATTACK.values():
        device.run(command)
    place.until(lambda: set(ATTACK) <= place.held())
    ended = float(device.run("date +%s"))
    device.run("rm /run/wait")
    device.wait_off(120)
    device.boot()
    assert device.booted == [2, 3]
    assert device.run("findmnt -n -o SOURCE /") == "/dev/vda3\n"
    place.until(lambda: place.outcome(deployment) in ("success", "failure"))
    place.judged()
    assert place.outcome(deployment) == "success" and device.environment["upgrade_available"] == "0"
    alerts = place.server.alerts()[known:]
    told = {alert["name"]: timestamp(alert["timestamp"]) for alert in alerts if alert["level"] == "CRITICAL"}
    assert told.keys() == ATTACK.keys() - {GONE}
    assert all(began - 1 <= moment <= ended for moment in told.values())
    lists = device.run("cat /etc/mender-monitor/baseline.d/*")
    assert "4755 0:0 /opt/app/helper" in lists and "tcp 8082 agent /opt/app/agent" in lists


def test_an_update_to_a_slot_that_does_not_boot(place: Place) -> None:
    """
    The boot loader takes the old slot again, and the alert is sent from there: one, and no other.
    """
    device = place.device
    known, slots = len(place.server.alerts()), len(device.booted)
    deployment = place.deploy("release-3")
    device.wait_off(400)
    device.boot()
    device.wait_off(120)  # the client boots the old slot anew when it finds itself there
    device.boot()
    assert device.booted[slots:] == [2, 3, 3]
    place.until(lambda: place.outcome(deployment) in ("success", "failure"))
    assert place.outcome(deployment) == "failure"
    place.server.wait_for(
        lambda alerts: "Deployment failed" in {alert["name"] for alert in alerts[known:]}, 120
    )
    place.judged()
    (alert,) = place.server.alerts()[known:]
    assert (alert["name"], alert["level"]) == ("Deployment failed", "CRITICAL")
    assert (alert["subject"]["name"], alert["subject"]["status"]) == ("release-3", "rolled-back")
    assert deployment in alert["subject"]["details"]["description"]
