"""
Deployments that the server makes and that fail, on a device where all is watched and an attacker is at work.

Each fails elsewhere. Due are the failure and the attack; the last test says that there was nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from mender_monitor_py.receiver.validation import timestamp
from tests.system.product import URL, Site, write
from tests.system.test_hold import ATTACK, MODULE, MODULE_TEXT, critical, prepared, told, waiting
from tests.system.updating import SETTINGS

FAILED = "Deployment failed"
PORT_FOUND = "Unexpected open port tcp/4444"
# What nobody has committed is not expected, though a deployment has left it there.
LEFT = {
    "Executable /opt/app/tool changed",
    "Executable /opt/app/old changed",
    "Unexpected process /opt/app/server",
    "Unexpected open port tcp/8081",
}
# Where it is told to fail, it has done first what it was to do; but a rollback is none.
FAILS = f"""#!/bin/sh
[ $1 != SupportsRollback ] || exec cat /root/rollback
fails=
case " $(cat /root/fail) " in
    *" $1 "*) fails=yes ;;
esac
case $1$fails in
    Downloadyes)
        : >/run/installed
        while [ -e /run/wait ]; do sleep 0.1; done ;;
    ArtifactRollbackyes) ;;
    *) {MODULE}-whole "$@" || exit ;;
esac
[ -z "$fails" ] || {{ echo "the module fails in $1, as it was told to" >&2; exit 1; }}
"""
# In a container, which is refused the process connector, what is gone at once is nobody's child.
BAD_SCRIPT = "#!/bin/sh\nsleep 3\nexit 1\n"


class Attacked(Site):
    """A device that is attacked in each of its deployments, and what was due so far, by names."""

    def __init__(self, site: Site, artifacts: Path) -> None:
        super().__init__(site.device, site.server)
        self._artifacts = artifacts
        self.due: Counter[str] = Counter()
        self.known = 0
        self.deployment = ""
        self.began, self.ended = 0.0, 0.0

    def deploy(self, name: str, fails: str, rollback: str = "Yes", *, script: bool = False) -> None:
        """The server deploys *name*, the module fails in the states *fails*; attack the device meanwhile."""
        device = self.device
        self.known = len(self.server.alerts())
        device.write("/root/fail", fails)
        device.write("/root/rollback", rollback)
        device.write("/root/ArtifactInstall_Leave_10_bad", BAD_SCRIPT, 0o755)
        device.run("rm -f /run/installed; touch /run/wait")
        what = f"-T app -n {name} -t test -f /root/app.tar.gz -o /root/{name}.mender"
        with_script = "-s /root/ArtifactInstall_Leave_10_bad" if script else ""
        device.run(f"mender-artifact write module-image {what} {with_script}")
        shutil.copy(device.root / f"root/{name}.mender", self._artifacts)
        wanted = {"artifact": f"{name}.mender", "name": name, "device_types": ["test"]}
        self.deployment = self.server.request("POST", "/deployments", wanted)["id"]
        device.wait("test -e /run/installed")
        # Nothing is held while it loads: it changes nothing yet.
        loads = fails == "Download"
        device.wait_until(lambda: (self.status()["held"] is None) == loads)
        self.began = self.now()
        for command in ATTACK.values():
            device.run(command)
        device.wait_until(lambda: set(ATTACK) <= waiting(self, told=loads))
        self.ended = self.now()
        if not loads:
            assert critical(self.server.alerts()[self.known :]) == {}

    def judge(self, status: str, phase: str, found: Set[str], left: Set[str] = frozenset()) -> None:
        """
        It goes on and fails. Told are that, what was *found* of the attack, with its own times, and what is
        *left* of the new software.
        """
        due = {FAILED, *found, *left}
        self.device.attempt("rm /run/wait")
        alerts = told(self, self.known, due)
        self.due.update(alerts.keys())
        assert alerts.keys() == due
        failure = alerts.pop(FAILED)
        assert failure["subject"]["status"] == status
        text = failure["subject"]["details"]["description"]
        assert f"it failed in {phase}\n" in text and f"deployment: {self.deployment}" in text
        for name in found:
            assert self.began - 1 <= timestamp(alerts[name]["timestamp"]) <= self.ended, alerts[name]
        lists = self.device.run("cat /etc/mender-monitor/baseline.d/*")
        assert not [word for word in ("4444", "/opt/other/shell", "/opt/other/miner") if word in lists]
        self._clean(bool(left))

    def _clean(self, left: bool) -> None:
        """Somebody undoes what the attacker did, and what the deployment has *left*."""
        device = self.device
        device.attempt("systemctl stop evil server")
        device.run("rm -f /opt/other/shell /opt/other/miner; cp /bin/true /opt/other/tool")
        if left:
            # Until the list has them, these are other files.
            device.run(
                "mender-monitorctl silence integrity opt 10m; rm -r /opt/app; cp -a /root/v1 /opt/app;"
                " mender-monitorctl baseline learn integrity opt; mender-monitorctl unsilence integrity opt"
            )
        device.wait_until(lambda: not {*ATTACK, *LEFT} & waiting(self, told=True))
        device.wait_until(lambda: self.state("service", "victim") == "OK")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("attacked")
    artifacts = folder / "artifacts"
    artifacts.mkdir()

    def furnish(root: Path) -> None:
        write(root / "etc/mender/mender.conf", json.dumps({"ServerURL": URL, **SETTINGS}))

    with prepared(folder, update_client=True, artifacts=artifacts, furnish=furnish) as made:
        device = made.device
        device.write(f"{MODULE}-whole", MODULE_TEXT, 0o755)
        device.write(MODULE, FAILS, 0o755)
        device.run("cp -a /opt/app /root/v1; systemctl add-wants multi-user.target victim")
        # What runs on does not expire from look to look: nothing is told twice.
        check = "/etc/mender-monitor/monitor.d/available/process_all.sh"
        device.run(
            f"sed -i 's/^PROCESS_INTERVAL=.*/PROCESS_INTERVAL=1s/' {check}; grep -q INTERVAL=1s {check}"
        )
        device.run("mender-monitorctl enable deployment mender")
        device.wait_until(lambda: made.state("deployment", "mender") == "OK")
        yield Attacked(made, artifacts)


@pytest.mark.parametrize(
    ("fails", "rollback", "status", "phase", "left"),
    [
        ("Download", "Yes", "failed", "Download", set()),
        ("ArtifactInstall", "Yes", "rolled-back", "ArtifactInstall", set()),
        ("ArtifactCommit", "Yes", "rolled-back", "ArtifactCommit", set()),
        ("ArtifactInstall ArtifactRollback", "Yes", "inconsistent", "ArtifactInstall", LEFT),
        ("ArtifactInstall", "No", "inconsistent", "ArtifactInstall", LEFT),
    ],
)
def test_a_module_that_fails(
    attacked: Attacked, fails: str, rollback: str, status: str, phase: str, left: set[str]
) -> None:
    name = "-".join(["release", *fails.split(), rollback]).lower()
    attacked.deploy(name, fails, rollback)
    attacked.judge(status, phase, set(ATTACK), left)


def test_a_state_script_that_fails(attacked: Attacked) -> None:
    attacked.deploy("release-script", "", script=True)
    attacked.judge("rolled-back", "ArtifactInstall", set(ATTACK))


def test_the_daemon_stops_in_the_middle(attacked: Attacked) -> None:
    """It is back when all is over: what it had found is told, and why the deployment failed."""
    attacked.deploy("release-stopped", "ArtifactInstall")
    attacked.device.run("systemctl stop mender-monitor; rm /run/wait")
    wanted = attacked.deployment

    def is_over() -> bool:
        listed = attacked.server.request("GET", "/deployments")
        return any(one["id"] == wanted and one["status"] == "failure" for one in listed)

    attacked.device.wait_until(is_over)
    attacked.device.run("systemctl start mender-monitor")
    attacked.judge("rolled-back", "ArtifactInstall", set(ATTACK))


@pytest.fixture(scope="module")
def _power_cut(attacked: Attacked) -> None:
    # Of the module: the device's process after it is another, and is no test's own.
    attacked.deploy("release-power-cut", "")
    attacked.device.cut_power()
    attacked.device.boot()


@pytest.mark.usefixtures("_power_cut")
def test_a_power_cut(attacked: Attacked) -> None:
    """The client rolls back at its next start. The attacker's port and process are gone with the power."""
    attacked.judge("rolled-back", "ArtifactInstall", set(ATTACK) - {PORT_FOUND})


def test_there_was_nothing_else(attacked: Attacked) -> None:
    alerts = [alert for alert in attacked.server.alerts() if critical([alert])]
    assert Counter(alert["name"] for alert in alerts) == attacked.due
