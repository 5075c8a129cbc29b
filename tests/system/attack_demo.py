"""
Attacks a test device, and shows what the monitor tells: see scripts/attack-demo.

The device is a container that is made for it, or with ``--here`` this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from mender_monitor_py.ctl.text import table
from tests.system.offences import BAD, EVIL_TWIN, FEED, FIRST, FLAWS, GOOD, NO_FLAWS, OFFENCES, SAVED, Offence
from tests.system.product import SETTINGS, URL, Site, site, write
from tests.system.tracker import feed
from tests.system.updating import artifact, prepare_client
from tests.system.vm import unavailable
from tests.system.wifi import in_guest, wifi_vm

ALERT_S, OK_S = 45.0, 60.0
SETTLE_S = 120.0
POLL_S = 0.05
# Nobody waits an hour here for the end of an event. What a check file says stays when the device is secured.
EXPIRATION_S = 15
SHORT = {
    "pid_ssh": {"PID_SERVICE": "ssh", "PID_EXPIRATION": f"{EXPIRATION_S}s"},
    "login_root": {"LOGIN_EXPIRATION": f"{EXPIRATION_S}s"},
    "process_all": {"PROCESS_EXPIRATION": f"{EXPIRATION_S}s"},
    "traffic_uplink": {"TRAFFIC_LIMIT": "4M", "TRAFFIC_WINDOW": f"{EXPIRATION_S}s", "TRAFFIC_INTERVAL": "1s"},
}


@dataclass(frozen=True)
class Told:
    """An alert that the server has."""

    level: str
    name: str


class Scene(Protocol):
    """Where offences are committed."""

    def attempt(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run *script* by /bin/sh as root."""

    def told(self) -> list[Told]:
        """The alerts that the server has acknowledged, in order."""


@dataclass
class Outcome:
    """
    What came of an offence.

    *seconds* are from its begin to the alert at the server; *ok* from the end of the cleanup to the OK, 0
    when that came before the cleanup had ended. *skipped*: it could not be committed, for the reason
    *problem*.
    """

    offence: Offence
    problem: str = ""
    skipped: bool = False
    alert: str = ""
    seconds: float | None = None
    cleaning_at: float = 0.0
    cleaned_at: float = 0.0
    ok: float | None = None

    @property
    def good(self) -> bool:
        return self.skipped or self.ok is not None

    def row(self) -> tuple[str, ...]:
        seconds = "" if self.seconds is None else f"{self.seconds:.1f} s"
        after = "" if self.ok is None else f"after {self.ok:.1f} s"
        return self.offence.title, self.problem or self.alert, seconds, after


class Arrivals(threading.Thread):
    """Notes when the server got each alert; a context manager."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(daemon=True)
        self._scene = scene
        self._ended = threading.Event()
        self.seen: list[tuple[float, Told]] = []

    def run(self) -> None:
        while not self._ended.is_set():
            told = self._scene.told()
            now = time.monotonic()
            self.seen += [(now, one) for one in told[len(self.seen) :]]
            self._ended.wait(POLL_S)

    def since(self, moment: float) -> list[tuple[float, Told]]:
        return [one for one in self.seen if one[0] >= moment]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


class Made:
    """A container with the product, and its server."""

    def __init__(self, here: Site) -> None:
        self.site = here

    def attempt(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.site.device.attempt(script)

    def told(self) -> list[Told]:
        return [Told(alert["level"], alert["name"]) for alert in self.site.server.alerts()]


class Here:
    """This machine: what its monitor has sent."""

    def attempt(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def told(self) -> list[Told]:
        rows = self.attempt("mender-monitorctl queue list --sent").stdout.splitlines()[1:]
        fields = (row.split(None, 5) for row in rows)
        return [Told(one[4], one[5].strip()) for one in fields if len(one) == 6 and one[1] == "sent"]


@contextmanager
def made_device(folder: Path) -> Iterator[Made]:
    """A device with services, an uplink, and checks whose events are over soon."""

    def furnish(root: Path) -> None:
        for check, values in SHORT.items():
            file = root / f"etc/mender-monitor/monitor.d/available/{check}.sh"
            lines = "".join(f'{name}="{value}"\n' for name, value in values.items())
            file.write_text(file.read_text() + lines)
        prepare_client(root, URL)
        for name, meta in ((FIRST, {}), (BAD, {"fail": "ArtifactInstall"}), (GOOD, {})):
            shutil.copy(artifact(root, folder, Path(name).stem, meta), root / name.lstrip("/"))
        flaw = ("CVE-2099-0001", "bash", "H")
        for path, flaws in ((FEED, []), (NO_FLAWS, []), (FLAWS, [flaw])):
            (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (root / path.lstrip("/")).write_bytes(feed(*flaws))
        write(root / "etc/default/debsecan", f"SOURCE=file://{Path(FEED).parent}/\n")

    with site(folder, update_client=True, settings=SETTINGS, fanotify=True, furnish=furnish) as here:
        here.device.connect()
        here.device.run("systemctl start nginx")
        # A device that has never had an update has nothing to go back to.
        here.device.run(f"mender install {FIRST} && mender commit")
        yield Made(here)


def secure(scene: Scene, options: str = "") -> str:
    """Secure the device; what that showed. Returns when every check knows its state."""
    done = scene.attempt(f"mender-monitorctl secure --yes {options}")
    if done.returncode:
        sys.exit(f"it cannot be secured: {done.stdout}{done.stderr or ''}")
    end = time.monotonic() + SETTLE_S
    while waiting := _starting(scene):
        if time.monotonic() > end:
            sys.exit(f"these checks do not know their state: {', '.join(waiting)}")
        time.sleep(0.2)  # the status is a file
    return done.stdout


def _starting(scene: Scene) -> list[str]:
    status = json.loads(scene.attempt("mender-monitorctl status --json").stdout)
    # A scan waits for its time.
    checks = [one for one in status["checks"] if one["enabled"] and one["subsystem"] != "vulnscan"]
    return [f"{one['subsystem']} {one['name']}" for one in checks if one["state"] == "starting"]


def attack(scene: Scene, offences: Sequence[Offence] = OFFENCES) -> list[Outcome]:
    """Commit each of *offences* in turn and clean up after it; then wait for the OKs."""
    enabled = scene.attempt("mender-monitorctl list").stdout
    scene.attempt(f"mkdir -p -m 700 {SAVED}")
    print("The offences, one after the other:")
    outcomes = [Outcome(offence) for offence in offences]
    with Arrivals(scene) as arrivals:
        for outcome in outcomes:
            needs = outcome.offence.needs
            if f"{outcome.offence.subsystem}_" not in enabled:
                outcome.problem, outcome.skipped = "(no such check is enabled)", True
            elif scene.attempt(needs).returncode:
                outcome.problem, outcome.skipped = f"(not possible here: {needs})", True
            else:
                print(f"  {outcome.offence.shown}", flush=True)
                _commit(scene, outcome, arrivals)
        end = time.monotonic() + OK_S
        while time.monotonic() < end and not all(_is_over(one, arrivals) for one in outcomes):
            time.sleep(POLL_S)  # the server is another machine
    scene.attempt(f"rm -r {SAVED}")
    return outcomes


def _commit(scene: Scene, outcome: Outcome, arrivals: Arrivals) -> None:
    offence = outcome.offence
    start = time.monotonic()
    done = scene.attempt(offence.commit)
    if done.returncode:
        outcome.problem = f"(it failed: {done.stdout.strip() or done.stderr})"
    while not outcome.problem and not outcome.alert:
        for moment, told in arrivals.since(start):
            if told.level != "OK" and told.name.startswith(offence.alert):
                outcome.alert, outcome.seconds = told.name, moment - start
                break
        else:
            if time.monotonic() - start > ALERT_S:
                outcome.problem = f"(nothing in {ALERT_S:.0f} s)"
            time.sleep(POLL_S)
    outcome.cleaning_at = time.monotonic()
    scene.attempt(offence.undo)
    outcome.cleaned_at = time.monotonic()


def _is_over(outcome: Outcome, arrivals: Arrivals) -> bool:
    """Whether *outcome* has its OK, or will have none."""
    if outcome.ok is None and outcome.alert:
        for moment, told in arrivals.since(outcome.cleaning_at):
            if told == Told("OK", outcome.alert):
                outcome.ok = max(moment - outcome.cleaned_at, 0.0)
    return outcome.ok is not None or not outcome.alert


def evil_twin() -> Outcome:
    """The offence that needs a radio, in a virtual machine that is made for it."""
    outcome = Outcome(EVIL_TWIN)
    if reason := unavailable():
        outcome.problem, outcome.skipped = f"({reason})", True
        return outcome
    try:
        with wifi_vm() as vm:
            found = json.loads(in_guest(vm, "tests.system.wifi_offence").splitlines()[-1])
    except AssertionError as error:
        outcome.problem = f"(it failed: {str(error)[-500:]})"
        return outcome
    outcome.alert, outcome.seconds, outcome.ok = found["alert"], found["seconds"], found["ok"]
    return outcome


def show(outcomes: Sequence[Outcome]) -> bool:
    """Print the table; whether each offence had its alert and its OK."""
    rows = [("OFFENCE", "ALERT", "AT THE SERVER", "OK AFTER THE CLEANUP"), *(one.row() for one in outcomes)]
    print(f"\n{table(rows)}")
    return all(outcome.good for outcome in outcomes)


def in_production() -> str:
    """Why this machine looks like a device in production; empty: it does not."""
    for path in ("/etc/mender/mender.conf", "/var/lib/mender/mender.conf"):
        if Path(path).exists():
            return f"it has an update client: {path}"
    if Path("/etc/mender-monitor/monitor.d/enabled").is_dir():
        return "it has a monitor: /etc/mender-monitor"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack a test device, and see what the monitor tells.")
    parser.add_argument(
        "--here", action="store_true", help="this machine is the test device: attack it, and clean up"
    )
    parser.add_argument("--yes", action="store_true", help="with --here: yes, really")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("root is needed")
    if options.here != options.yes or (not options.here and in_production()):
        reason = in_production() or "attacks on this machine itself"
        sys.exit(
            f"{reason}. --here --yes attacks this machine; without both a container is made and attacked"
        )
    if options.here:
        if shutil.which("mender-monitorctl") is None:
            sys.exit("there is no mender-monitorctl here: install the monitor first")
        here = Here()
        print(secure(here))
        sys.exit(0 if show(attack(here)) else 1)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as beside:
        twin = beside.submit(evil_twin)
        with made_device(Path(name)) as scene:
            print(secure(scene, "--allow-login admin"))
            outcomes = attack(scene)
        print(f"  {EVIL_TWIN.shown}: in a virtual machine", flush=True)
        sys.exit(0 if show([*outcomes, twin.result()]) else 1)


if __name__ == "__main__":
    main()
