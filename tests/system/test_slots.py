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
from functools import partial
from pathlib import Path

import pytest

from mender_monitor_py.receiver.validation import timestamp
from tests.fakes.receiver import Alert, ReceiverProcess
from tests.system.chroot import Chroot, chroot
from tests.system.product import know_server, write
from tests.system.slots import TwoSlots, make_disk, make_slot, prepare_slots
from tests.system.vm import HOST, unavailable
from tests.system.vmimage import SUITE
from tests.system.vmproduct import Watched, pack

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
FINAL = ("success", "failure")
MODULE = "/usr/share/mender/modules/v3/app"
# The client calls it during the download already.
MODULE_TEXT = """#!/bin/sh
case $1 in
    SupportsRollback) echo Yes ;;
    ArtifactInstall) install -m 755 files/tool /opt/app/brought && /opt/app/brought ;;
esac
"""
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


def another(root: Path, release: str) -> None:
    """Another release: other files, a new program that listens, and a new set-uid executable."""
    for name in ("daemon", "helper", "server"):
        with (root / "opt/app" / name).open("a") as file:
            file.write(release)
    (root / "opt/app/helper").chmod(0o4755)
    (root / "opt/app/agent").write_bytes((root / "usr/bin/python3").read_bytes())
    (root / "opt/app/agent").chmod(0o755)
    unit = f"[Service]\nExecStart=/opt/app/agent -c '{LISTENS.format(8082)}'\n"
    write(root / "etc/systemd/system/agent.service", unit)
    (root / "etc/systemd/system/multi-user.target.wants/agent.service").symlink_to("../agent.service")


def broken(root: Path, release: str) -> None:
    """A release that cannot boot."""
    another(root, release)
    (root / "lib/systemd/systemd").unlink()


def visited(root: Path, release: str) -> None:
    """A release with a program that no other has."""
    another(root, release)
    (root / "opt/app/visitor").write_bytes((root / "bin/sleep").read_bytes())
    (root / "opt/app/visitor").chmod(0o755)
    write(root / "etc/systemd/system/visitor.service", "[Service]\nExecStart=/opt/app/visitor infinity\n")
    (root / "etc/systemd/system/multi-user.target.wants/visitor.service").symlink_to("../visitor.service")


RELEASES = {"release-2": another, "release-3": broken, "release-4": visited}
SCRIPTS = {"release-4": {"ArtifactCommit_Enter_50_check": "#!/bin/sh\nexit 1\n"}}


class Place(Watched):
    """The device and its server."""

    def __init__(self, device: TwoSlots, server: ReceiverProcess) -> None:
        super().__init__(device)
        self.device = device
        self.server = server

    def deploy(self, release: str, *, wait: bool = False) -> str:
        """Deploy it; with *wait* the passive slot has it then, and the client goes on without /run/wait."""
        self.device.run("touch /run/wait" if wait else "true")
        wanted = {"artifact": f"{release}.mender", "name": release, "device_types": ["test"]}
        deployment = str(self.server.request("POST", "/deployments", wanted)["id"])
        if wait:
            self.device.run("until [ -e /run/installed ]; do sleep 0.2; done", seconds=300)
            self.until(self.holds)
        return deployment

    def boots(self, times: int) -> list[int]:
        """It is to boot *times* times, and then to end the deployment. Returns the slots that were loaded."""
        known = len(self.device.booted)
        for _ in range(times):
            self.device.wait_off(400)
            self.device.boot()
        self.until(lambda: all(one["status"] in FINAL for one in self.server.request("GET", "/deployments")))
        self.judged()
        return self.device.booted[known:]

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
        for release, furnish in RELEASES.items():
            make_slot(folder / release, archive, partial(furnish, release=release))
            make_artifact(folder, release)
        make_module_artifact(folder, "release-5")
        with TwoSlots(share, folder / "disk") as device:
            place = Place(device, server)
            for check in LEARNED:
                device.run(f"mender-monitorctl baseline learn {check}")
            place.until(lambda: place.are_well(CHECKS))
            place.judged()
            yield place


def make_artifact(folder: Path, release: str) -> None:
    """The image *release* in *folder*, as an artifact that waits before its installation has ended."""
    with chroot(SUITE, folder / "work") as tool:
        shutil.move(folder / release, tool.path("/root/image.ext4"))
        scripts = {"ArtifactInstall_Leave_50_wait": WAITS, **SCRIPTS.get(release, {})}
        for name, text in scripts.items():
            write(tool.path(f"/root/{name}"), text)
            tool.path(f"/root/{name}").chmod(0o755)
        tool.sh(
            "mender-artifact write rootfs-image -t test -f /root/image.ext4 -o /root/artifact"
            ' --compression none -n "$@"',
            release,
            *(word for name in scripts for word in ("-s", f"/root/{name}")),
        )
        target = folder / "artifacts" / f"{release}.mender"
        shutil.move(tool.path("/root/artifact"), target)


def make_module_artifact(folder: Path, release: str) -> None:
    """One that the module installs, beside the software of the slot."""
    with chroot(SUITE, folder / "work") as tool:
        tool.sh(
            "cp /bin/true /root/tool; echo new >>/root/tool; chmod 755 /root/tool;"
            ' mender-artifact write module-image -T app -t test -f /root/tool -n "$1" -o /root/artifact',
            release,
        )
        shutil.move(tool.path("/root/artifact"), folder / "artifacts" / f"{release}.mender")


def failed(alert: Alert) -> tuple[str, str, str]:
    """What the alert of a deployment says of it."""
    assert (alert["name"], alert["level"]) == ("Deployment failed", "CRITICAL")
    subject = alert["subject"]
    return subject["name"], subject["status"], subject["details"]["description"].splitlines()[0]


def to_the_other_slot(place: Place) -> None:
    """
    What the update brought is no alert, and what was done to the old slot alone is over. What is still so is
    told after the commit, with the time at which it was done.
    """
    device = place.device
    known = len(place.server.alerts())
    deployment = place.deploy("release-2", wait=True)
    began = float(device.run("date +%s"))
    for command in ATTACK.values():
        device.run(command)
    place.until(lambda: set(ATTACK) <= place.held())
    ended = float(device.run("date +%s"))
    device.run("rm /run/wait")
    assert place.boots(1) == [3]
    assert device.run("findmnt -n -o SOURCE /") == "/dev/vda3\n"
    assert place.outcome(deployment) == "success" and device.environment["upgrade_available"] == "0"
    alerts = place.server.alerts()[known:]
    told = {alert["name"]: timestamp(alert["timestamp"]) for alert in alerts if alert["level"] == "CRITICAL"}
    assert told.keys() == ATTACK.keys() - {GONE}
    assert all(began - 1 <= moment <= ended + 1 for moment in told.values())
    lists = device.run("cat /etc/mender-monitor/baseline.d/*")
    assert "4755 0:0 /opt/app/helper" in lists and "tcp 8082 agent /opt/app/agent" in lists


def to_a_slot_that_does_not_boot(place: Place) -> None:
    """
    The boot loader takes the old slot again, and the alert is sent from there: one, and no other.
    """
    known = len(place.server.alerts())
    deployment = place.deploy("release-3")
    # The client boots the old slot anew when it finds itself there.
    assert place.boots(2) == [2, 3, 3]
    assert place.outcome(deployment) == "failure"
    (alert,) = place.server.alerts()[known:]
    assert failed(alert) == (
        "release-3",
        "rolled-back",
        "release-3 was not installed: it failed in ArtifactReboot",
    )


def not_committed(place: Place) -> None:
    """
    The new slot comes up, and its check says no: back to the old slot, where an attack of before is told, and
    nothing of what only the new slot has.
    """
    known = len(place.server.alerts())
    deployment = place.deploy("release-4", wait=True)
    place.device.run(ATTACK[GONE])
    place.until(lambda: GONE in place.held())
    place.device.run("rm /run/wait")
    assert place.boots(2) == [2, 3]
    assert place.outcome(deployment) == "failure"
    alerts = {alert["name"]: alert for alert in place.server.alerts()[known:]}
    assert alerts.keys() == {GONE, "Deployment failed"} and len(place.server.alerts()) == known + 2
    assert failed(alerts["Deployment failed"])[:2] == ("release-4", "rolled-back")


def by_a_module(place: Place) -> None:
    """
    No list has the module: what it runs, from the download on, is the client's. What it wrote is expected.
    """
    known = len(place.server.alerts())
    # It comes when the lists are there: what is installed by then is on them.
    place.device.run(f"cat >{MODULE} <<'END'\n{MODULE_TEXT}END\nchmod 755 {MODULE}")
    deployment = place.deploy("release-5")
    assert place.boots(0) == []
    log = place.device.run("cat /data/mender/deployments.0001.*.log")
    assert place.outcome(deployment) == "success", log
    closed = [alert["name"] for alert in place.server.alerts()[known:]]
    assert closed == ["Deployment failed"] * len(closed)  # the OK of those before
    assert all(alert["level"] == "OK" for alert in place.server.alerts()[known:])
    assert "/opt/app/brought" not in place.device.run("mender-monitorctl status")


@pytest.mark.skipif(
    not os.environ.get("MENDER_MONITOR_SLOTS"), reason="minutes: set MENDER_MONITOR_SLOTS=yes"
)
@pytest.mark.skipif(bool(unavailable()), reason=unavailable())
def test_updates_of_the_root_file_system(tmp_path: Path) -> None:
    """
    One device goes through them: what is due of each of them is told, and nothing else.
    """
    with device_with_slots(tmp_path) as place:
        to_the_other_slot(place)
        to_a_slot_that_does_not_boot(place)
        not_committed(place)
        by_a_module(place)
