"""
A device while Debian's update client installs: what the deployment does is no alert, an attack is one.

The module unpacks an archive, restarts a service and starts a new program, which opens a port. It waits while
/run/wait is there: then an attacker has his turn. After a reboot it waits while /root/wait is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py.receiver.validation import timestamp
from tests.fakes.receiver import Alert
from tests.system.device import WAIT_SECONDS
from tests.system.product import URL, Site, site, write
from tests.system.updating import SETTINGS

MODULE = "/usr/share/mender/modules/v3/app"
MODULE_TEXT = """#!/bin/sh
set -e
case $1 in
    SupportsRollback) echo Yes ;;
    NeedsArtifactReboot) cat /root/reboots 2>/dev/null || echo No ;;
    ArtifactInstall)
        mkdir -p tmp/before
        cp -a /opt/app/. tmp/before
        rm -rf /opt/app
        mkdir /opt/app
        tar -C /opt/app -xzf files/app.tar.gz
        systemctl restart victim server || true
        : >/run/installed
        while [ -e /run/wait ]; do sleep 0.1; done ;;
    ArtifactVerifyReboot)
        while [ -e /root/wait ]; do sleep 0.1; done ;;
    ArtifactRollback)
        systemctl stop server || true
        rm -rf /opt/app
        mkdir /opt/app
        cp -a tmp/before/. /opt/app
        systemctl restart victim ;;
esac
"""
# A program of its own, and not an interpreter by its name.
SERVER = """[Service]
ExecStart=/opt/app/server -c 'import socket, signal; s = socket.create_server(("", 8081)); signal.pause()'
"""
# The update client listens on the loopback, at another port with each start: its proxy for add-ons.
PROXY = "tcp 1024-65535 mender /usr/bin/mender"
CHECKS = (
    ("service", "victim", "SERVICE_NAME=victim"),
    ("pid", "victim", "PID_SERVICE=victim"),
    ("ports", "all", f"PORTS_ALLOW=tcp 8080 * * {PROXY}", "PORTS_SCOPE=all"),
    (
        "process",
        "all",
        # The last two are of the machine around the device, of which fanotify tells, too.
        "PROCESS_ALLOW=/usr/** /bin/** /sbin/** /lib/** elsewhere:/** /tmp/**",
        "PROCESS_HIDDEN=no",
        "PROCESS_EXPIRATION=3s",
        "PROCESS_INTERVAL=5s",
    ),
    ("integrity", "opt", "INTEGRITY_FILES=/opt/app/* /opt/other/*"),
    ("setuid", "opt", "SETUID_PATHS=/opt", "SETUID_INTERVAL=2s"),
)
NOTE = "software that a deployment has replaced"
# What fanotify tells of the machine around the device; other tests there remove what they have run.
AROUND = (
    "Unexpected process elsewhere:",
    "Unexpected process /tmp/pytest-of-",
    "Many unexpected processes",
    "Processes that could not be named",
)
ATTACK = {
    "Executable /opt/other/tool changed": "echo evil >>/opt/other/tool",
    "Unexpected set-uid executable /opt/other/shell": "cd /opt/other; cp /bin/dash shell; chmod 4755 shell",
    "Unexpected process /opt/other/miner": "cp /usr/bin/python3 /opt/other/miner",
    "Unexpected open port tcp/4444": "systemd-run --quiet --unit=evil /opt/other/miner -c"
    " 'import socket, signal; s = socket.create_server((\"\", 4444)); signal.pause()'",
}


@contextmanager
def prepared(folder: Path, **options: Any) -> Iterator[Site]:
    """A device with the module, what it replaces, and checks that are all well."""
    with site(folder, fanotify=True, **options) as made:
        device = made.device
        device.write(MODULE, MODULE_TEXT, 0o755)
        device.write("/etc/systemd/system/server.service", SERVER)
        device.run(
            "mkdir -p /opt/app /opt/other /root/v2; cp /bin/true /opt/app/tool; cp /bin/true /opt/other/tool;"
            " cp /bin/false /root/v2/tool; cp /usr/bin/python3 /root/v2/server; systemctl daemon-reload;"
            " cp /bin/sleep /opt/app/old; cp /bin/sleep /opt/other/old; cp /bin/sleep /root/v2/old;"
            " echo new >>/root/v2/old; systemctl start victim; tar -C /root/v2 -czf /root/app.tar.gz ."
        )
        for subsystem, name, *variables in CHECKS:
            words = " ".join(f"'{variable}'" for variable in variables)
            device.run(f"mender-monitorctl create {subsystem} {name} {words}")
            if subsystem not in ("service", "pid"):
                device.run(f"mender-monitorctl baseline learn {subsystem} {name}")
            device.run(f"mender-monitorctl enable {subsystem} {name}")
        for subsystem, name, *_ in CHECKS:
            made.device.wait_until(lambda: made.state(subsystem, name) == "OK")  # noqa: B023
        yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with prepared(tmp_path_factory.mktemp("hold")) as made:
        yield made


@pytest.fixture
def own_place(tmp_path: Path) -> Iterator[Site]:
    """For a test that boots it again."""
    with prepared(tmp_path) as made:
        yield made


@pytest.fixture
def managed_place(tmp_path: Path) -> Iterator[Site]:
    """A device whose update client asks the server, which deploys what is in the folder ``artifacts``."""
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()

    def furnish(root: Path) -> None:
        write(root / "etc/mender/mender.conf", json.dumps({"ServerURL": URL, **SETTINGS}))

    with prepared(tmp_path, update_client=True, artifacts=artifacts, furnish=furnish) as made:
        yield made


@pytest.fixture
def device_is_well(place: Site) -> Site:
    """No alert is open; what an earlier test has left is undone."""
    device = place.device
    device.attempt("rm -f /run/wait; mender rollback; systemctl stop evil server")
    device.run(
        "rm -rf /opt/other/shell /opt/other/miner;"
        " cp /bin/true /opt/other/tool; cp /bin/sleep /opt/other/old; "
        "pkill -x miner; systemctl start victim; mender-monitorctl baseline learn integrity opt; true"
    )
    device.wait_until(lambda: place.status()["held"] is None)
    try:
        watched = [check for check in CHECKS if check[0] != "process"]
        device.wait_until(lambda: all(place.state(*check[:2]) == "OK" for check in watched))
    except AssertionError as error:
        raise AssertionError(device.run("mender-monitorctl status")) from error
    return place


def artifact(place: Site, name: str) -> str:
    path = f"/root/{name}.mender"
    place.device.run(
        f"mender-artifact write module-image -T app -n {name} -t test -f /root/app.tar.gz -o {path}"
    )
    return path


def install(place: Site, name: str) -> Any:
    """Begin to install, and return when the device is changed; it goes on when /run/wait is gone."""
    device = place.device
    path = artifact(place, name)
    device.run("rm -f /run/installed; touch /run/wait")
    process = device.start(f"mender install {path} >/run/install.log 2>&1")
    device.wait("test -e /run/installed")
    device.wait_until(lambda: place.status()["held"] is not None)
    return process


def go_on(place: Site, process: Any) -> None:
    place.device.run("rm /run/wait")
    assert process.wait(WAIT_SECONDS) == 0, place.device.read("/run/install.log")


def attack(place: Site) -> tuple[float, float]:
    """What an attacker does; when that began and ended."""
    before = place.now()
    for command in ATTACK.values():
        place.device.run(command)
    try:
        place.device.wait_until(lambda: set(ATTACK) <= waiting(place))
    except AssertionError as error:
        raise AssertionError(place.device.run("mender-monitorctl status")) from error
    return before, place.now()


def waiting(place: Site, *, told: bool = False) -> set[str]:
    """The findings that are held back, or those that are *told*."""
    checks = place.status()["checks"]
    return {found["name"] for check in checks for found in check["findings"] if found["told"] is told}


def critical(alerts: list[Alert]) -> dict[str, Alert]:
    bad = {alert["name"]: alert for alert in alerts if alert["level"] == "CRITICAL"}
    return {name: alert for name, alert in bad.items() if not name.startswith(AROUND)}


def told(place: Site, known: int, names: set[str]) -> dict[str, Alert]:
    """The bad alerts after the first *known*, when *names* are among them, and nothing is held back."""
    alerts = place.server.wait_for(lambda got: names <= critical(got[known:]).keys(), WAIT_SECONDS)
    place.device.wait_until(lambda: place.status()["held"] is None)
    place.device.wait_until(lambda: place.status()["outbox"]["waiting"] == 0)
    alerts = place.server.alerts()
    return critical(alerts[known:])


@pytest.fixture
def old_software(device_is_well: Site) -> Iterator[None]:
    """Two services that no deployment restarts, in mount namespaces of their own."""
    device = device_is_well.device
    for folder in ("app", "other"):
        unit = f"--unit=old-{folder} -p ProtectSystem=yes -p PrivateTmp=yes -p Type=exec"
        device.run(f"systemd-run --quiet {unit} /opt/{folder}/old infinity")
        device.run(f"[ $(readlink /proc/$(pidof /opt/{folder}/old)/ns/mnt) != $(readlink /proc/1/ns/mnt) ]")
    # They are on no list until now: what is told of that is not of the test.
    old = {f"Unexpected process /opt/{folder}/old" for folder in ("app", "other")}
    device_is_well.server.wait_for(lambda got: old <= critical(got).keys(), WAIT_SECONDS)
    device.run("mender-monitorctl baseline learn process all")
    device.wait_until(lambda: not old & waiting(device_is_well, told=True))
    device.wait_until(lambda: device_is_well.status()["outbox"]["waiting"] == 0)
    yield
    device.run("systemctl stop old-app old-other")
    device.wait_until(lambda: NOTE not in device.run("mender-monitorctl status"))


@pytest.mark.usefixtures("old_software")
def test_an_attack_during_a_deployment_is_told_and_the_deployment_is_not(device_is_well: Site) -> None:
    """
    Nothing while it installs, over a restart of the daemon; at the end the attack alone, with its own times.
    The lists have what the deployment brought, and nothing of the attack. Of two programs that were replaced
    and not restarted the one that the attacker replaced is told.
    """
    place, device = device_is_well, device_is_well.device
    known = len(place.server.alerts())
    process = install(place, "release-2")
    device.run("cp --remove-destination /bin/true /opt/other/old")
    began, ended = attack(place)
    shown = device.run("mender-monitorctl status")
    assert "Held back: " in shown and "release-2 installs" in shown and "(not told yet)" in shown
    device.run("systemctl restart mender-monitor")
    device.wait_until(lambda: place.status()["held"] is not None)
    go_on(place, process)
    assert critical(place.server.alerts()[known:]) == {}
    device.run("mender commit")
    replaced = {"Executable /opt/other/old changed", "Unexpected process /opt/other/old (deleted)"}
    found = told(place, known, set(ATTACK) | replaced)
    assert found.keys() == set(ATTACK) | replaced
    for name in ATTACK:
        assert began - 1 <= timestamp(found[name]["timestamp"]) <= ended, found[name]
    shown = f"1 process runs {NOTE}: /opt/app/old (pid "
    device.wait_until(lambda: shown in device.run("mender-monitorctl status"))
    lists = device.run("cat /etc/mender-monitor/baseline.d/*")
    wanted = device.run("sha256sum </root/v2/tool").split()[0]
    assert wanted in lists and "tcp 8081 server /opt/app/server" in lists
    assert not [w for w in ("4444", "/opt/other/shell", "/opt/other/miner", "(deleted)") if w in lists]


def test_a_rollback_and_a_reboot(own_place: Site) -> None:
    """
    The device reboots between the installation and its end, as an update of the system does; what is held is
    told after the rollback, and what was put back is none.
    """
    place, device = own_place, own_place.device
    known = len(place.server.alerts())
    process = install(place, "release-3")
    name, command = next(iter(ATTACK.items()))
    began = place.now()
    device.run(command)
    device.wait_until(lambda: name in waiting(place))
    ended = place.now()
    go_on(place, process)
    device.reboot()
    device.run("systemctl start victim")
    device.wait_until(lambda: place.status()["held"] is not None)
    device.run("mender rollback")
    found = told(place, known, {name})
    assert found.keys() == {name}
    assert began - 1 <= timestamp(found[name]["timestamp"]) <= ended


def test_a_deployment_by_the_server_with_a_reboot(managed_place: Site, tmp_path: Path) -> None:
    """
    The client installs what the server deploys, reboots in the middle and commits: what was put on the device
    before the reboot is told at the end, and nothing of the new software, which runs by then.
    """
    place, device = managed_place, managed_place.device
    known = len(place.server.alerts())
    made = artifact(place, "release-5")
    shutil.copy(device.root / made.lstrip("/"), tmp_path / "artifacts")
    device.run("echo Automatic >/root/reboots; touch /run/wait /root/wait")
    device.run("systemctl add-wants multi-user.target victim server")
    wanted = {"artifact": "release-5.mender", "name": "release-5", "device_types": ["test"]}
    deployment = place.server.request("POST", "/deployments", wanted)["id"]
    device.wait("test -e /run/installed")
    device.wait_until(lambda: place.status()["held"] is not None)
    began, ended = attack(place)
    device.run("rm /run/wait")
    device.rebooted()
    device.wait_until(lambda: place.status()["held"] is not None)
    held = place.status()["held"]
    assert (held["deployment"], held["artifact"]) == (deployment, "release-5")
    assert critical(place.server.alerts()[known:]) == {}
    device.run("rm /root/wait")
    # The port was gone with the reboot, and is not open any more.
    left = set(ATTACK) - {"Unexpected open port tcp/4444"}
    found = told(place, known, left)
    (status,) = [one["status"] for one in place.server.request("GET", "/deployments")]
    assert status == "success"
    assert found.keys() == left
    for alert in found.values():
        assert began - 1 <= timestamp(alert["timestamp"]) <= ended, alert
    lists = device.run("cat /etc/mender-monitor/baseline.d/*")
    assert device.run("sha256sum </root/v2/tool").split()[0] in lists
    assert "tcp 8081 server /opt/app/server" in lists and "/opt/other/shell" not in lists


def test_a_deployment_that_does_not_end(device_is_well: Site) -> None:
    """
    After DEPLOYMENT_GRACE what is found is told, though the client still installs.
    """
    place, device = device_is_well, device_is_well.device
    known = len(place.server.alerts())
    process = install(place, "release-4")
    name, command = next(iter(ATTACK.items()))
    device.run(command)
    device.wait_until(lambda: name in waiting(place))
    text = device.read("/etc/mender-monitor/monitor.conf")
    device.write("/etc/mender-monitor/monitor.conf", text + "DEPLOYMENT_GRACE=1s\n")
    try:
        device.run("systemctl reload mender-monitor")
        place.server.wait_for(lambda got: name in critical(got[known:]), WAIT_SECONDS)
        device.wait_until(lambda: place.status()["held"] is None)
        go_on(place, process)
        device.run("mender rollback")
    finally:
        device.write("/etc/mender-monitor/monitor.conf", text)
        device.run("systemctl reload mender-monitor")
