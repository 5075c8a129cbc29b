"""
Deployments by the real update client, Debian's mender-client 3.4, and what the monitor tells of them.

One device goes through all of them. Each test says which alerts are due; the last one, that there were no
others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py import __version__
from tests.fakes.receiver import Alert, ReceiverProcess
from tests.system.device import WAIT_SECONDS, Device, told_on_failure
from tests.system.product import PORT, URL, Site, install_product, know_server
from tests.system.updating import artifact, prepare_client

FAILED = "Deployment failed"
BAD_SCRIPT = "#!/bin/sh\necho this script fails >&2\nexit 1\n"
SCRIPTS = "/etc/mender/scripts/"
WAITS = "#!/bin/sh\n: >/run/waiting\nwhile [ -e /run/wait ]; do sleep 0.1; done\n"
STATE_SCRIPTS = "/usr/share/mender-monitor/state-scripts/artifact"
FINAL = ("success", "failure")
# Each artifact, and what its module is told to do.
ARTIFACTS: dict[str, dict[str, str]] = {
    "good-1": {},
    "install-fails": {"fail": "ArtifactInstall"},
    "no-rollback": {"fail": "ArtifactInstall", "rollback": "No"},
    "rollback-fails": {"fail": "ArtifactInstall ArtifactRollback"},
    "commit-fails": {"fail": "ArtifactCommit"},
    "download-fails": {"fail": "Download"},
    "while-away": {"fail": "ArtifactInstall"},
    "aborted": {"wait": "ArtifactInstall"},
    "power-cut": {"wait": "ArtifactInstall"},
    "reboot-fails": {"fail": "ArtifactVerifyReboot", "reboot": "Automatic"},
    "good-2": {},
    # Nothing but its work tree tells of it, as long as that is there.
    "hand-install-fails": {"fail": "ArtifactInstall", "wait": "ArtifactInstall"},
    "hand-no-rollback": {"fail": "ArtifactInstall", "rollback": "No"},
    "hand-download-fails": {"fail": "Download"},
    "hand-rolled-back": {},
    "hand-power-cut": {"wait": "ArtifactInstall"},
    "hand-good": {},
}


class Fleet(Site):
    """A device, its server, and the alerts that were due so far."""

    def __init__(self, device: Device, server: ReceiverProcess, artifacts: Path) -> None:
        super().__init__(device, server)
        self.artifacts = artifacts
        self.due: list[tuple[str, str, str]] = []

    def deploy(self, file: str, name: str = "", *, wait: bool = True, seen: bool = True) -> dict[str, Any]:
        """
        Deploy the artifact in *file*, which the server calls *name*; what the server was told of it.

        It is not downloaded before the daemon has *seen* it: of one that takes milliseconds a daemon on a
        busy machine may see only that it is over.
        """
        name = name or file
        wanted = {"artifact": f"{file}.mender", "name": name, "device_types": ["test"]}
        with self.held_back() if seen else nullcontext():
            deployment = self.server.request("POST", "/deployments", wanted)["id"]
            if seen:
                self.see(name)
        if wait:
            self.device.wait_until(lambda: self._of(deployment)["status"] in FINAL)
        return self._of(deployment)

    @contextmanager
    def held_back(self, what: str = "artifact") -> Iterator[None]:
        """What the client asks for, or says, is not answered before the end of it."""
        self.hold_back(what)
        try:
            yield
        finally:
            self.server.reset()

    def hold_back(self, what: str) -> None:
        """What waits is answered, and what comes from now on waits."""
        self.server.fault("slow", to=what, seconds=3600)

    def see(self, name: str) -> None:
        """Wait until the daemon knows that this artifact is being installed."""
        self.device.wait_until(lambda: f"{name} is being installed" in " ".join(self._notes()))

    def _notes(self) -> list[str]:
        checks = self.status()["checks"]
        notes: list[str] = next(one["notes"] for one in checks if one["subsystem"] == "deployment")
        return notes

    def _of(self, deployment: str) -> dict[str, Any]:
        listed = self.server.request("GET", "/deployments")
        found: dict[str, Any] = next(one for one in listed if one["id"] == deployment)
        return found

    def woken(self, deployment: str) -> str:
        """Have the client try again at once, not in a minute; how the deployment stands."""
        self.device.run("systemctl kill --signal=USR1 mender-client")
        return str(self._of(deployment)["status"])

    def takes(self, deployment: str) -> bool:
        """Have the client's question answered, and hold back what it says then; whether it has the answer."""
        if not self._of(deployment)["device"]:
            self.hold_back("deployment")
        return bool(self._of(deployment)["device"])

    def stands(self, deployment: str, status: str) -> bool:
        """Whether the client has reported *status* last."""
        return bool(self._of(deployment)["status"] == status)

    def abort(self, deployment: str) -> None:
        """The server does; the client hears of it with its next report."""
        self.server.request("DELETE", f"/deployments/{deployment}")
        assert self._of(deployment)["status"] == "aborted"

    def bring(self, name: str) -> None:
        """The artifact is on the device, as a file."""
        shutil.copy(self.artifacts / f"{name}.mender", self.device.root / "root/artifact.mender")

    def install(self, name: str, *, status: int = 1) -> None:
        """Install the artifact by hand; the client exits with *status*. The daemon sees one that waits."""
        self.bring(name)
        if "wait" in ARTIFACTS.get(name, {}):
            self.device.run("touch /run/wait")
            with self.device.start("mender install /root/artifact.mender >/run/install 2>&1") as client:
                self.see(name)
                self.device.wait("rm /run/waiting && rm /run/wait")
            assert client.returncode == status, self.device.read("/run/install")
            return
        done = self.device.attempt("mender install /root/artifact.mender")
        assert done.returncode == status, done.stdout

    def told(self, *due: tuple[str, str, str]) -> list[Alert]:
        """These alerts are due now: level, subject, status. Returns them."""
        before = len(self.due)
        self.due += due
        alerts = self.server.wait_for(lambda got: len(got) >= len(self.due), WAIT_SECONDS)
        assert triples(alerts) == self.due
        return alerts[before:]

    def failed(self, subject: str, status: str) -> str:
        """One failure was told; its text."""
        (alert,) = self.told(("CRITICAL", subject, status))
        assert alert["name"] == FAILED
        details: dict[str, Any] = alert["subject"]["details"]
        lines = [line["data"] for line in details.get("lines_before", ())]
        return "\n".join([str(details["description"]), *lines])


def triples(alerts: list[Alert]) -> list[tuple[str, str, str]]:
    return [(one["level"], one["subject"]["name"], one["subject"]["status"]) for one in alerts]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    artifacts = folder / "artifacts"

    def prepare(root: Path) -> None:
        install_product(root)
        know_server(root, update_client=True)
        prepare_client(root, URL)
        for name, meta in ARTIFACTS.items():
            artifact(root, artifacts, name, meta)
        scripts = [("ArtifactInstall_Enter_10_bad", BAD_SCRIPT)]
        artifact(root, artifacts, "script-fails", scripts=scripts)
        # What users put into their artifacts.
        ours = [
            (path.name, path.read_text()) for path in sorted((root / STATE_SCRIPTS.lstrip("/")).iterdir())
        ]
        artifact(root, artifacts, "scripted", {"fail": "ArtifactCommit"}, ours)
        artifact(root, artifacts, "hand-commit-fails", {"fail": "ArtifactCommit"}, ours)
        artifact(root, artifacts, "hand-scripted", {"fail": "ArtifactInstall"}, ours)
        damage(artifacts / "good-2.mender", artifacts / "damaged.mender")
        server.start()

    device = Device(prepare)
    options = ("--port", str(PORT), "--database", str(folder / "server.db"), "--artifacts", str(artifacts))
    server = ReceiverProcess(folder, *options, prefix=device.in_network)
    try:
        with device, told_on_failure(device):
            made = Fleet(device, server, artifacts)
            device.run("/usr/share/mender-monitor-py/state-scripts install")
            device.run("mender-monitorctl enable deployment mender")
            device.wait_until(lambda: made.state("deployment", "mender") == "OK")
            yield made
    finally:
        server.stop()


def damage(whole: Path, damaged: Path) -> None:
    """The payload of an artifact, which is compressed, is not what its checksum says."""
    data = bytearray(whole.read_bytes())
    at = data.index(b"data/0000.tar.gz") + 512
    data[at + 20 : at + 40] = bytes(byte ^ 0xFF for byte in data[at + 20 : at + 40])
    damaged.write_bytes(data)


def test_the_inventory_has_the_monitor(fleet: Fleet) -> None:
    """
    The update client runs the monitor's inventory script and sends what it prints.
    """
    checks = len(fleet.device.run("mender-monitorctl list").split())
    wanted = {
        "mender_monitor_version": __version__,
        "mender_monitor_state": "running",
        "mender_monitor_checks": str(checks),
        "mender_monitor_alerts": "0",
    }
    fleet.device.run("systemctl restart mender-client")

    def has_come() -> bool:
        sent: dict[str, Any] = {}
        for device in fleet.server.request("GET", "/devices"):
            path = f"/api/management/v1/inventory/devices/{device['id']}"
            found = fleet.server.request("GET", path)["attributes"]
            sent.update((one["name"], one["value"]) for one in found if one["scope"] == "inventory")
        # The one that the client sent at boot was of a daemon without checks.
        return wanted.items() <= sent.items()

    fleet.device.wait_until(has_come)


def test_a_success_is_no_alert(fleet: Fleet) -> None:
    assert fleet.deploy("good-1")["status"] == "success"
    fleet.told()


@pytest.mark.parametrize(
    ("artifact", "subject", "status", "phase"),
    [
        ("install-fails", "install-fails", "rolled-back", "ArtifactInstall"),
        ("script-fails", "script-fails", "rolled-back", "ArtifactInstall"),
        ("commit-fails", "commit-fails", "rolled-back", "ArtifactCommit"),
        ("scripted", "scripted", "rolled-back", "ArtifactCommit"),
        ("download-fails", "download-fails", "failed", "Download"),
        ("damaged", "good-2", "failed", "Download"),
        ("good-2", "another-name", "failed", "Download"),
        ("no-rollback", "no-rollback", "inconsistent", "ArtifactInstall"),
        ("rollback-fails", "rollback-fails", "inconsistent", "ArtifactInstall"),
    ],
)
def test_a_failure(fleet: Fleet, artifact: str, subject: str, status: str, phase: str) -> None:
    deployment = fleet.deploy(artifact, subject)
    assert deployment["status"] == "failure"
    text = fleet.failed(subject, status)
    assert f"it failed in {phase}\n" in text
    assert f"deployment: {deployment['id']}" in text
    if phase == "ArtifactInstall" and artifact != "script-fails":
        assert "the module fails in ArtifactInstall, as it was told to" in text
    assert "/artifacts/" not in text


def test_the_server_of_the_artifact_is_gone(fleet: Fleet) -> None:
    fleet.server.fault("dark", to="artifact")
    try:
        deployment = fleet.deploy("good-2", "unreachable", wait=False, seen=False)
        fleet.device.wait_until(lambda: fleet.woken(deployment["id"]) in FINAL)
        assert "it failed in Download\n" in fleet.failed("unreachable", "failed")
    finally:
        fleet.server.reset()


def test_the_daemon_is_stopped_meanwhile(fleet: Fleet) -> None:
    fleet.device.run("systemctl stop mender-monitor")
    deployment = fleet.deploy("while-away", seen=False)
    fleet.device.run("systemctl start mender-monitor")
    text = fleet.failed(deployment["id"], "rolled-back")
    assert "it failed in ArtifactInstall\n" in text


def test_a_client_that_logs_errors_only(fleet: Fleet) -> None:
    """
    Its logs have no end then. The last of these fail while the daemon is stopped.
    """
    conf = fleet.device.read("/etc/mender/mender.conf")
    fleet.device.write(
        "/etc/mender/mender.conf", json.dumps({**json.loads(conf), "DaemonLogLevel": "warning"})
    )
    fleet.device.run("systemctl restart mender-client")
    fleet.deploy("commit-fails")
    text = fleet.failed("commit-fails", "rolled-back")
    assert "it failed in ArtifactCommit\n" in text and "Update module terminated abnormally" in text
    fleet.device.run("systemctl stop mender-monitor")
    fleet.deploy("download-fails", seen=False)
    fleet.deploy("no-rollback", seen=False)
    fleet.device.run("systemctl start mender-monitor")
    fleet.told(("CRITICAL", "download-fails", "failed"), ("CRITICAL", "no-rollback", "inconsistent"))
    fleet.device.write("/etc/mender/mender.conf", conf)
    fleet.device.run("systemctl restart mender-client")


def test_the_server_aborts_what_is_taken(fleet: Fleet) -> None:
    """Before the first report: as was wanted, and nothing has changed."""
    with fleet.held_back("deployment"):
        deployment = fleet.deploy("aborted", wait=False, seen=False)["id"]
        fleet.device.wait_until(lambda: fleet.takes(deployment))
        assert fleet.stands(deployment, "pending")
        fleet.abort(deployment)
    is_as_wanted(fleet, deployment)


def test_the_server_aborts_what_is_downloaded_still(fleet: Fleet) -> None:
    """The same."""
    with fleet.held_back():
        deployment = fleet.deploy("aborted", wait=False, seen=False)["id"]
        fleet.device.wait_until(lambda: fleet.stands(deployment, "downloading"))
        fleet.abort(deployment)
    is_as_wanted(fleet, deployment)


def is_as_wanted(fleet: Fleet, deployment: str) -> None:
    heard = f"the server aborted it in Download; deployment: {deployment}; then: nothing had been changed"
    fleet.device.wait(f"journalctl --unit=mender-monitor --grep='{heard}'")
    fleet.told()


def test_the_server_aborts_what_is_downloaded(fleet: Fleet) -> None:
    """The client hears of it when it is about to install, and rolls back."""
    fleet.device.write(SCRIPTS + "Download_Leave_10_wait", WAITS, 0o755)
    try:
        aborts_while_it_waits(fleet, "good-2", "ArtifactInstall")
    finally:
        fleet.device.run(f"rm {SCRIPTS}Download_Leave_10_wait")


def test_the_server_aborts_what_is_installed(fleet: Fleet) -> None:
    """The client hears of it when it reports the next state, and goes back."""
    aborts_while_it_waits(fleet, "aborted", "ArtifactCommit")


def aborts_while_it_waits(fleet: Fleet, artifact: str, phase: str) -> None:
    fleet.device.run("touch /run/wait")
    deployment = fleet.deploy(artifact, wait=False)["id"]
    fleet.device.wait("test -e /run/waiting")
    fleet.abort(deployment)
    fleet.device.run("rm /run/wait /run/waiting")
    text = fleet.failed(artifact, "rolled-back")
    assert f"the server aborted it in {phase}\n" in text
    assert f"deployment: {deployment}" in text


@pytest.fixture(scope="module")
def _power_cut(fleet: Fleet) -> None:
    # Of the module: the device's process after it is another, and is no test's own.
    fleet.device.run("touch /run/wait")
    fleet.deploy("power-cut", wait=False)
    fleet.device.wait("test -e /run/waiting")
    fleet.device.cut_power()
    fleet.device.boot()


@pytest.fixture(scope="module")
def _rebooted_twice(fleet: Fleet) -> None:
    fleet.deploy("reboot-fails", wait=False)
    fleet.device.rebooted(2)


@pytest.mark.usefixtures("_power_cut")
def test_a_power_cut_in_the_middle(fleet: Fleet) -> None:
    """The client rolls back at its next start; the alert is sent from there."""
    assert "it failed in ArtifactInstall\n" in fleet.failed("power-cut", "rolled-back")


@pytest.mark.usefixtures("_rebooted_twice")
def test_back_on_the_old_slot(fleet: Fleet) -> None:
    """The update reboots, is not what was wanted, and the client goes back by another reboot."""
    assert "it failed in ArtifactReboot\n" in fleet.failed("reboot-fails", "rolled-back")


# By hand


@pytest.mark.parametrize(
    ("artifact", "status", "phase"),
    [
        ("hand-install-fails", "rolled-back", "ArtifactInstall"),
        ("hand-scripted", "rolled-back", "ArtifactInstall"),
        ("hand-no-rollback", "inconsistent", ""),
        ("hand-download-fails", "failed", "Download"),
    ],
)
def test_by_hand(fleet: Fleet, artifact: str, status: str, phase: str) -> None:
    fleet.install(artifact)
    text = fleet.failed(artifact, status)
    assert "installed by hand" in text
    assert f"it failed in {phase}\n" in text or not phase


def test_by_hand_and_the_commit_fails(fleet: Fleet) -> None:
    """The artifact brings our scripts: else this could not be told from what somebody wanted."""
    fleet.install("hand-commit-fails", status=0)
    fleet.device.attempt("mender commit")
    assert "it failed in ArtifactCommit\n" in fleet.failed("hand-commit-fails", "rolled-back")


def test_by_hand_and_rolled_back_by_hand(fleet: Fleet) -> None:
    fleet.install("hand-rolled-back", status=0)
    fleet.device.run("mender rollback")
    fleet.told()


def test_by_hand_while_the_daemon_is_stopped(fleet: Fleet) -> None:
    """A script of the artifact left its word."""
    fleet.device.run("systemctl stop mender-monitor")
    fleet.install("hand-scripted")
    fleet.device.run("systemctl start mender-monitor")
    assert "it failed in ArtifactInstall\n" in fleet.failed("hand-scripted", "rolled-back")


@pytest.fixture(scope="module")
def _power_cut_by_hand(fleet: Fleet) -> None:
    fleet.device.run("touch /run/wait")
    fleet.bring("hand-power-cut")
    with fleet.device.start("mender install /root/artifact.mender"):
        fleet.device.wait("test -e /run/waiting")
        fleet.device.cut_power()
    fleet.device.boot()


@pytest.mark.usefixtures("_power_cut_by_hand")
def test_by_hand_and_a_power_cut(fleet: Fleet) -> None:
    """The client does not resume it, and nobody rolls it back."""
    assert "it failed in ArtifactInstall\n" in fleet.failed("hand-power-cut", "unknown")


def test_the_next_success_clears_all(fleet: Fleet) -> None:
    """By hand as well as by the server. And nothing came in all this time but what was due."""
    fleet.install("hand-good", status=0)
    fleet.device.run("mender commit")
    fleet.device.wait_until(lambda: fleet.state("deployment", "mender") == "OK")
    bad = {subject for level, subject, _ in fleet.due if level == "CRITICAL"}
    alerts = fleet.server.wait_for(lambda got: len(got) >= len(fleet.due) + len(bad), WAIT_SECONDS)
    cleared = triples(alerts[len(fleet.due) :])
    assert {(level, status) for level, _, status in cleared} == {("OK", "committed")}
    assert sorted(subject for _, subject, _ in cleared) == sorted(bad)
    assert triples(alerts[: len(fleet.due)]) == fleet.due
    assert fleet.device.run("ls /var/lib/mender-monitor/deployment.d") == ""
