"""
Debian's update client installs on a machine where the kernel tells all: process connector, fanotify.

A container is refused the one, and sees by the other what runs on the machine around it. Here nothing is
left out: whatever alert any check queues is counted. One machine goes through the deployments, one by one.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.chroot import Chroot
from tests.system.product import know_server, write
from tests.system.vm import Vm
from tests.system.vmproduct import UNITS, Watched, installed

MODULE = "/usr/share/mender/modules/v3/app"
# What it makes on the device (a copy with another name, a set-uid bit, a text) is in no artifact.
MODULE_TEXT = """#!/bin/sh
set -e
case $1 in
    SupportsRollback) echo Yes ;;
    ArtifactInstall)
        mkdir -p tmp/before
        cp -a /opt/app/. tmp/before
        tar -C /opt/app -xzf files/app.tar.gz
        cp --remove-destination /opt/app/server /opt/app/agent
        chmod 4755 /opt/app/helper
        date >/opt/app/made
        chmod -R u+rw,go-w /opt/other
        find /opt/other ! -perm -4000 -exec chown root:root {} +
        find /opt/other -exec touch {} +
        systemctl restart app server agent
        : >/run/installed
        while [ -e /run/wait ]; do sleep 0.1; done
        if [ -e files/fail ]; then exit 1; fi ;;
    ArtifactRollback)
        rm -rf /opt/app
        cp -a tmp/before /opt/app
        systemctl restart app server agent ;;
esac
"""
LISTENS = "import socket, signal; s = socket.create_server((str(), {})); signal.pause()"
SERVICES = {
    "app": "/opt/app/daemon infinity",
    "server": f"/opt/app/server -c '{LISTENS.format(8081)}'",
    "agent": f"/opt/app/agent -c '{LISTENS.format(8082)}'",
}
# No deployment restarts these. One is of the software that is deployed, the other one an attacker replaces.
KEPT = {f"old-{folder}": f"/opt/{folder}/old infinity" for folder in ("app", "other")}
NOTE = "1 process runs software that a deployment has replaced: /opt/app/old (pid "
# All of them look at everything again between the end of a deployment and the end of its hold.
CHECKS = {
    "deployment mender": "",
    "integrity opt": "'INTEGRITY_FILES=/opt/app/* /opt/other/*' INTEGRITY_INTERVAL=5s",
    "pid app": "PID_SERVICE=app",
    "ports all": "PORTS_SCOPE=all",
    "process all": "'PROCESS_LEARN=running installed' PROCESS_INTERVAL=5s",
    "service app": "SERVICE_NAME=app",
    "setuid system": "",
}
LEARNED = ("integrity opt", "ports all", "process all", "setuid system")
RELEASES = ("release-1", "release-2", "release-3", "release-4")
FAILS = "release-4"
# One is a file that the deployment writes, too.
ATTACK = {
    "Executable /opt/other/tool changed": "echo evil >>/opt/other/tool",
    "Executable /opt/other/old changed": "cp --remove-destination /bin/true /opt/other/old",
    "Executable /opt/app/made changed": "echo evil >>/opt/app/made",
    "Unexpected set-uid executable /opt/other/shell": "cd /opt/other; cp /bin/dash shell; chmod 4755 shell",
    "Unexpected process /opt/other/blink": "cp /bin/true /opt/other/blink; /opt/other/blink",
    "Unexpected process /opt/other/miner": "cp /usr/bin/python3 /opt/other/miner",
    "Unexpected open port tcp/4444": "systemd-run --quiet --unit=evil /opt/other/miner -c "
    + shlex.quote(LISTENS.format(4444)),
}


def prepare(root: Chroot) -> None:
    """The update client with its module, the software that it replaces, artifacts, and checks."""
    know_server(root.root, update_client=False, settings="")
    write(root.path(MODULE), MODULE_TEXT)
    root.path(MODULE).chmod(0o755)
    for name, command in (SERVICES | KEPT).items():
        write(root.path(f"/etc/systemd/system/{name}.service"), f"[Service]\nExecStart={command}\n")
    root.sh(
        "mkdir -p /opt/app /opt/other; cp /bin/true /opt/other/tool; touch /opt/app/made;"
        " cp /bin/sleep /opt/app/daemon; cp /bin/true /opt/app/helper;"
        " for folder in app other; do cp /bin/sleep /opt/$folder/old; done"
    )
    for release in RELEASES:
        root.sh(
            "mkdir /root/new; cp /bin/sleep /root/new/daemon; cp /bin/true /root/new/helper;"
            " cp /usr/bin/python3 /root/new/server; cp /bin/sleep /root/new/old;"
            ' for file in daemon helper old server; do echo "$1" >>/root/new/$file; done;'
            " tar -C /root/new -czf /root/app.tar.gz .; : >/root/fail;"
            ' mender-artifact write module-image -T app -n "$1" -t test -o "/root/$1.mender"'
            " --compression none -f /root/app.tar.gz $2; rm -r /root/new",
            release,
            "-f /root/fail" if release == FAILS else "",
        )
    for check, variables in CHECKS.items():
        if check != "deployment mender":  # it comes with the package
            root.sh(f"mender-monitorctl create {check} {variables}")
        root.sh(f"mender-monitorctl enable {check}")


class Place(Watched):
    """The machine with the update client, and checks that are all well."""

    def alerts(self) -> list[tuple[str, str]]:
        """Level and name of each alert that was queued so far: nothing is sent, there is no server."""
        lines = self.vm.run("mender-monitorctl queue list").splitlines()
        rows = [line.split(None, 5) for line in lines if line[:1].isdigit()]
        return [(level, name) for *_, level, name in rows]

    def alert(self, name: str) -> dict[str, Any]:
        """The last alert of this *name*."""
        number = len(self.alerts()) - [known for _, known in reversed(self.alerts())].index(name)
        alert: dict[str, Any] = json.loads(self.vm.run(f"mender-monitorctl queue show {number}"))["alert"]
        return alert

    def install(self, release: str) -> None:
        """Begin to install; returns when the device is changed. It goes on when /run/wait is gone."""
        self.vm.run("rm -f /run/installed /run/exit; touch /run/wait")
        self.vm.run(f"(mender install /root/{release}.mender >/run/install.log 2>&1; echo $? >/run/exit) &")
        self.vm.run("until [ -e /run/installed -o -e /run/exit ]; do sleep 0.1; done")
        self.vm.run("[ -e /run/installed ] || { cat /run/install.log; exit 1; }")
        self.until(self.holds)

    def go_on(self) -> int:
        """Returns when the client has done its work; its exit status."""
        return int(self.vm.run("rm -f /run/wait; until [ -s /run/exit ]; do sleep 0.1; done; cat /run/exit"))

    def runs_old_software(self) -> bool:
        """Whether the status tells so."""
        return NOTE in self.vm.run("mender-monitorctl status")

    def judged(self) -> None:
        """Returns when nothing is held back any more."""
        self.until(lambda: not self.holds())


@pytest.fixture(scope="module")
def place(machine: Vm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with installed(machine, tmp_path_factory.mktemp("product"), prepare):
        machine.run(f"systemctl daemon-reload; systemctl start app {shlex.join(KEPT)}")
        for check in LEARNED:
            machine.run(f"mender-monitorctl baseline learn {check}")
        machine.run(f"systemctl start {UNITS}")
        made = Place(machine)
        made.until(lambda: made.are_well(CHECKS))
        yield made
        services = shlex.join(SERVICES | KEPT)
        machine.run(f"systemctl stop evil {services}; rm -rf /opt/app /opt/other /data/mender")


def test_a_deployment_alone_is_no_alert(place: Place) -> None:
    """
    It replaces files, restarts a service, and starts new programs, which open ports. No check has a word to
    say of it, and each list has what the deployment brought, and what the module made on the device. That a
    service which nobody has restarted runs the old software is in the status.
    """
    place.install("release-1")
    changed = {"Executable /opt/app/daemon changed", "Unexpected set-uid executable /opt/app/helper"}
    place.until(lambda: changed <= place.held())
    assert place.go_on() == 0
    place.vm.run("mender commit")
    place.judged()
    place.until(place.runs_old_software)
    assert place.alerts() == []
    assert place.are_well(CHECKS)
    lists = place.vm.run("cat /etc/mender-monitor/baseline.d/*").splitlines()
    ends = ("0644 0:0 /opt/app/made", "0755 0:0 /opt/app/agent", "4755 0:0 /opt/app/helper")
    assert all(any(line.endswith(end) for line in lists) for end in ends)
    assert {
        "tcp 8081 server /opt/app/server",
        "tcp 8082 agent /opt/app/agent",
        "/opt/app/agent",
        "/opt/app/server",
    } <= set(lists)


def test_an_attack_during_a_deployment_is_all_that_is_told(place: Place) -> None:
    """
    Each part of it is an alert, also of a file that the deployment wrote before. None is the deployment's.
    """
    place.install("release-2")
    for command in ATTACK.values():
        place.vm.run(command)
    place.until(lambda: set(ATTACK) <= place.held())
    assert place.alerts() == []
    assert place.go_on() == 0
    place.vm.run("mender commit")
    place.judged()
    alerts = {("CRITICAL", name) for name in (*ATTACK, "Unexpected process /opt/other/old (deleted)")}
    place.until(lambda: alerts <= {*place.alerts()})
    assert sorted(place.alerts()) == sorted(alerts)
    miner = place.alert("Unexpected process /opt/other/miner")["subject"]["details"]["description"]
    assert "systemd unit: evil.service" in miner and "it has ended" not in miner
    lists = place.vm.run("cat /etc/mender-monitor/baseline.d/*")
    assert not [word for word in ("4444", "/opt/other/shell", "/opt/other/miner") if word in lists]


def test_what_was_found_before_a_deployment_is_still_a_finding(place: Place) -> None:
    """
    It sets the mode and the times of all that the attack has left: files, a set-uid one, and one that runs;
    and the owner, but where that takes the set-uid bit away. The file that it writes is well again.
    """
    known = len(place.alerts())
    entries = "grep -h /opt/other /etc/mender-monitor/baseline.d/*"
    changed = "stat -c '%Z %n' /opt/other/*"
    listed, before = place.vm.run(entries), place.vm.run(changed).splitlines()
    place.install("release-3")
    assert not set(before) & set(place.vm.run(changed).splitlines())
    assert place.go_on() == 0
    place.vm.run("mender commit")
    place.judged()
    place.until(lambda: ("OK", "Executable /opt/app/made changed") in place.alerts())
    assert place.alerts()[known:] == [("OK", "Executable /opt/app/made changed")]
    assert place.vm.run(entries) == listed


def test_a_deployment_that_fails_is_one_alert(place: Place) -> None:
    """
    It has replaced and restarted all of it when it fails, and is rolled back: the deployment's own alert. One
    service was never restarted: what it runs is at its path again, in another file.
    """
    place.vm.run("systemctl restart old-app")
    place.until(lambda: not place.runs_old_software())
    known = len(place.alerts())
    place.install(FAILS)
    place.until(lambda: "Executable /opt/app/daemon changed" in place.held())
    assert place.go_on() != 0
    place.judged()
    place.until(place.runs_old_software)
    assert place.alerts()[known:] == [("CRITICAL", "Deployment failed")]
    assert place.alert("Deployment failed")["subject"] | {"details": ""} == {
        "name": FAILS,
        "type": "deployment",
        "status": "rolled-back",
        "details": "",
    }
