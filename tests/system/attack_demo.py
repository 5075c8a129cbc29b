"""
Attacks a test device, and shows what the monitor tells: see scripts/attack-demo.

The device is a container that is made for it, or with ``--here`` this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from mender_monitor_py.ctl.text import table
from tests.system import attack_options
from tests.system.attack_options import CHECKS
from tests.system.offences import BAD, EVIL_TWIN, FEED, FIRST, FLAWS, GOOD, NO_FLAWS, OFFENCES, SAVED, Offence
from tests.system.product import SETTINGS, URL, Site, site, write
from tests.system.tracker import feed
from tests.system.updating import artifact, prepare_client
from tests.system.vm import unavailable
from tests.system.wifi import in_guest, wifi_vm

ALERT_S, OK_S = 120.0, 120.0
SETTLE_S = 400.0  # scans have idle priority
POLL_S = 0.05
# Nobody waits an hour here for the end of an event.
EXPIRATION_S = 15
SHORT = {
    "pid_ssh": {"PID_SERVICE": "ssh", "PID_EXPIRATION": f"{EXPIRATION_S}s"},
    "login_root": {"LOGIN_EXPIRATION": f"{EXPIRATION_S}s"},
    "process_all": {"PROCESS_EXPIRATION": f"{EXPIRATION_S}s"},
    "traffic_uplink": {"TRAFFIC_LIMIT": "4M", "TRAFFIC_WINDOW": f"{EXPIRATION_S}s", "TRAFFIC_INTERVAL": "1s"},
}
EVENTS = {check.partition("_")[0] for check in SHORT}


@dataclass(frozen=True)
class Told:
    """An alert that the server has."""

    level: str
    name: str


class Scene(Protocol):
    """Where offences are committed. *poll*: seconds between two looks at what the server has."""

    poll: float

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
    told_at: float = 0.0
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
    """Notes when the server got each alert, but for those that it has already; a context manager."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(daemon=True)
        self._scene = scene
        self._ended = threading.Event()
        self.seen: list[tuple[float, Told]] = [(0.0, told) for told in scene.told()]

    def run(self) -> None:
        while not self._ended.is_set():
            told = self._scene.told()
            now = time.monotonic()
            self.seen += [(now, one) for one in told[len(self.seen) :]]
            self._ended.wait(self._scene.poll)

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

    poll = POLL_S

    def __init__(self, here: Site) -> None:
        self.site = here

    def attempt(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.site.device.attempt(script)

    def told(self) -> list[Told]:
        return [Told(alert["level"], alert["name"]) for alert in self.site.server.alerts()]


class Here:
    """This machine: what its monitor has sent."""

    poll = 0.5  # each look is a program that is started

    def attempt(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def told(self) -> list[Told]:
        rows = self.attempt("mender-monitorctl queue list --sent").stdout.splitlines()[1:]
        fields = (row.split(None, 5) for row in rows)
        return [Told(one[4], one[5].strip()) for one in fields if len(one) == 6 and one[1] == "sent"]


@contextmanager
def events_over_soon(checks: Path) -> Iterator[None]:
    """As long as it lasts, :data:`SHORT` is at the end of the enabled files in *checks*."""
    files = {name: checks / f"enabled/{name}.sh" for name in SHORT}
    there = {name: file for name, file in files.items() if file.exists()}
    try:
        for name, file in there.items():
            with file.open("a") as text:
                text.write(_lines(name))
        yield
    finally:
        for name, file in there.items():
            before, _, after = file.read_text().rpartition(_lines(name))
            file.write_text(before + after)


def _lines(check: str) -> str:
    lines = "".join(f'{name}="{value}"\n' for name, value in SHORT[check].items())
    return f"\n# For scripts/attack-demo, as long as that runs:\n{lines}"


@contextmanager
def made_device(folder: Path) -> Iterator[Made]:
    """A device with services, an uplink, and checks whose events are over soon."""

    def furnish(root: Path) -> None:
        for check in SHORT:  # what a check file says stays when the device is secured
            file = root / f"{CHECKS}/available/{check}.sh"
            file.write_text(file.read_text() + _lines(check))
        prepare_client(root, URL)
        for name, meta in (
            (FIRST, {}),
            (BAD, {"fail": "ArtifactInstall", "wait": "ArtifactInstall"}),
            (GOOD, {}),
        ):
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
    settle(scene)
    return done.stdout


def settle(scene: Scene) -> None:
    """Wait until every check knows its state."""
    end = time.monotonic() + SETTLE_S
    while waiting := _starting(scene):
        if time.monotonic() > end:
            sys.exit(f"these checks do not know their state: {', '.join(waiting)}")
        time.sleep(0.2)  # the status is a file


def _status(scene: Scene) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(scene.attempt("mender-monitorctl status --json").stdout)
    return status


def _starting(scene: Scene) -> list[str]:
    status = _status(scene)
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
        while _pending(outcomes, arrivals) and time.monotonic() < end:
            time.sleep(POLL_S)  # the server is another machine
    scene.attempt(f"rm -r {SAVED}")
    return outcomes


def _commit(scene: Scene, outcome: Outcome, arrivals: Arrivals) -> None:
    offence = outcome.offence
    start = time.monotonic()
    done = scene.attempt(offence.commit)
    end = time.monotonic() + ALERT_S
    if done.returncode:
        outcome.problem = f"(it failed: {done.stdout.strip() or done.stderr})"
    while not outcome.problem and not outcome.alert:
        for moment, told in arrivals.since(start):
            if told.level != "OK" and told.name.startswith(offence.alert):
                outcome.alert, outcome.seconds, outcome.told_at = told.name, moment - start, moment
                break
        else:
            if time.monotonic() > end:
                outcome.problem = f"(nothing in {ALERT_S:.0f} s)"
            time.sleep(POLL_S)
    outcome.cleaning_at = time.monotonic()
    scene.attempt(offence.undo)
    outcome.cleaned_at = time.monotonic()


def _pending(outcomes: Sequence[Outcome], arrivals: Arrivals) -> list[Outcome]:
    """Those whose OK is still to come; each of the others has it now."""
    return [outcome for outcome in outcomes if not _is_over(outcome, arrivals)]


def _is_over(outcome: Outcome, arrivals: Arrivals) -> bool:
    """Whether *outcome* has its OK, or will have none."""
    if outcome.ok is None and outcome.alert:
        # An event is over after a while, whether somebody cleans up or not.
        is_event = outcome.offence.subsystem in EVENTS
        for moment, told in arrivals.since(outcome.told_at if is_event else outcome.cleaning_at):
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


def obstacle(status: Mapping[str, Any]) -> str:
    """Why no alert would come, by what ``mender-monitorctl status`` knows; empty: nothing is in the way."""
    if not status["daemon"]["running"]:
        return "the monitor does not run: systemctl start mender-monitor"
    if status["sender"].get("state") == "waiting":
        return f"no alert reaches the server now: {status['sender']['reason']}"
    return ""


def attack_here(offences: Sequence[Offence]) -> bool:
    """Attack this machine with *offences*; whether all went well."""
    here = Here()
    if shutil.which("mender-monitorctl") is None:
        sys.exit("there is no mender-monitorctl here: install the monitor first")
    if problem := obstacle(_status(here)):
        sys.exit(problem)
    print(secure(here))
    with events_over_soon(Path("/", CHECKS)):
        time.sleep(1)  # the daemon reads files a moment after they were written, and does not tell when
        settle(here)
        return show(attack(here, offences))


def attack_made(offences: Sequence[Offence], *, twin: bool) -> bool:
    """Attack a container that is made for it, and (*twin*) a machine with radios; whether all went well."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as beside:
        seen = beside.submit(evil_twin) if twin else None
        with made_device(Path(name)) as scene:
            print(secure(scene, "--allow-login admin"))
            outcomes = attack(scene, offences)
        if seen is not None:
            print(f"  {EVIL_TWIN.shown}: in a virtual machine", flush=True)
            outcomes.append(seen.result())
        return show(outcomes)


def main() -> None:
    wanted = attack_options.read()
    if os.geteuid() != 0:
        sys.exit("root is needed")
    done = attack_here(wanted.offences) if wanted.here else attack_made(wanted.offences, twin=wanted.twin)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
