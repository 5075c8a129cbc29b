"""Debian's own scanners on a booted device: debsecan with a small feed of its format, and lynis."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.system.product import Site
from tests.system.tracker import Flaw, feed

FEED = "http://127.0.0.1:8081/"
DEBSECAN = (
    "cat /proc/self/cgroup >/run/scanned;"
    f" debsecan --suite bookworm --source {FEED} --only-fixed --format detail"
)
FAILED = "Vulnerability scan debsecan failed"


def publish(site: Site, *flaws: Flaw) -> None:
    folder = site.device.root / "srv/feed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bookworm").write_bytes(feed(*flaws))


def version(site: Site, package: str) -> str:
    return site.device.run(f"dpkg-query --show --showformat '${{Version}}' {package}").strip()


@pytest.fixture(scope="module")
def tracker(here: Site) -> Iterator[Site]:
    """A device whose security tracker is on its own loopback."""
    publish(here)
    here.device.write(
        "/etc/systemd/system/tracker.service",
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /srv/feed 8081\n",
    )
    here.device.run("systemctl daemon-reload && systemctl start tracker")
    here.device.wait(f"curl --silent --fail --output /dev/null {FEED}bookworm")
    yield here


def test_debsecan_from_the_first_finding_to_the_last(tracker: Site) -> None:
    """
    By the schedule, by hand, with a tracker that is away, and gone when the package is fixed.
    """
    device = tracker.device
    publish(
        tracker,
        ("CVE-2099-0001", "bash", "H"),
        ("CVE-2099-0002", "sudo", "L"),
        ("CVE-2099-0003", "nosuch", "H"),
    )
    tracker.watch("vulnscan", "debsecan", "debsecan", DEBSECAN, "VULNSCAN_SPLAY=0")
    bash = f"Vulnerability CVE-2099-0001 in bash {version(tracker, 'bash')}"
    (alert,) = tracker.expect(bash, "CRITICAL")
    assert alert["subject"] | {"details": None} == {
        "name": "CVE-2099-0001 bash", "type": "vulnerability", "status": "high", "details": None,
    }  # fmt: skip
    text = alert["subject"]["details"]["description"]
    assert "fixed in: 99\nlink: https://security-tracker.debian.org/tracker/CVE-2099-0001" in text
    assert "what CVE-2099-0001 is about — remotely exploitable" in text
    # Outside of the watcher's sandbox.
    assert "mender-monitor-runner" in device.read("/run/scanned")

    publish(tracker, ("CVE-2099-0004", "sudo", "H"))
    done = device.attempt("mender-monitorctl scan debsecan --json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["told_daemon"], told["total"]) == (1, True, 1)
    tracker.expect(bash, "CRITICAL", "OK")
    sudo = f"Vulnerability CVE-2099-0004 in sudo {version(tracker, 'sudo')}"
    tracker.expect(sudo, "CRITICAL")

    device.run("systemctl stop tracker")
    for _ in range(2):
        done = device.attempt("mender-monitorctl scan debsecan")
        assert done.returncode == 2
        assert "Connection refused" in done.stdout
    (alert,) = tracker.expect(FAILED, "CRITICAL")
    assert "Connection refused" in alert["subject"]["details"]["description"]
    tracker.expect(sudo, "CRITICAL")

    publish(tracker)
    device.run("systemctl start tracker")
    device.wait(f"curl --silent --fail --output /dev/null {FEED}bookworm")
    assert device.run("mender-monitorctl scan debsecan").startswith("0 findings")
    tracker.expect(FAILED, "CRITICAL", "OK")
    tracker.expect(sudo, "CRITICAL", "OK")
    assert tracker.state("vulnscan", "debsecan") == "OK"
    device.run("mender-monitorctl disable vulnscan debsecan")


@pytest.mark.parametrize("kind", ["summary", "simple", "bugs", "report", "detail"])
def test_each_format_of_debsecan(tracker: Site, kind: str) -> None:
    publish(tracker, ("CVE-2099-0001", "bash", "H"), ("CVE-2099-0005", "sudo", "M"))
    command = f"debsecan --suite bookworm --source {FEED} --format {kind}"
    tracker.device.run(
        f"mender-monitorctl create vulnscan {kind} debsecan '{command}' VULNSCAN_SEVERITY=medium"
    )
    done = tracker.device.attempt(f"mender-monitorctl scan {kind} --json 2>/dev/null")
    found = {(one["id"], one["package"]) for one in json.loads(done.stdout)["found"]}
    with_package = {("CVE-2099-0001", "bash"), ("CVE-2099-0005", "sudo")}
    assert found == ({(name, "") for name, _ in with_package} if kind == "bugs" else with_package)
    tracker.device.run(f"mender-monitorctl delete vulnscan {kind}")


def test_lynis(here: Site) -> None:
    """
    The audit as it is shipped but for some groups of tests; its report file, and its own names of findings.
    """
    command = 'lynis audit system --cronjob --no-log --tests-from-group "ssh authentication"'
    here.device.run(f"mender-monitorctl create vulnscan lynis lynis '{command}' VULNSCAN_SEVERITY=low")
    done = here.device.attempt("mender-monitorctl scan lynis --json 2>/dev/null", seconds=300)
    told = json.loads(done.stdout)
    assert (done.returncode, told["failed"]) == (1, "")
    by_id = {one["id"]: one for one in told["found"]}
    assert by_id["SSH-7408"]["severity"] == "low"
    assert by_id["SSH-7408"]["link"] == "https://cisofy.com/lynis/controls/SSH-7408/"
    report = here.device.read("/var/log/lynis-report.dat")
    assert len(told["found"]) == report.count("suggestion[]=") + report.count("warning[]=")
    here.device.run("mender-monitorctl delete vulnscan lynis")


def test_a_scanner_ends_with_the_daemon_however_that_ends(here: Site) -> None:
    command = "'(setsid sleep 4321 &); sleep 4321' VULNSCAN_PATTERN=x VULNSCAN_SPLAY=0"
    here.device.run(f"mender-monitorctl create vulnscan slow lines {command}")
    here.device.run("mender-monitorctl enable vulnscan slow")
    for end in ("stop", "kill --signal=KILL"):
        here.device.wait("test $(pgrep --exact sleep --list-full | grep --count 4321) -ge 2")
        here.device.run(f"systemctl {end} mender-monitor")
        if end != "stop":
            here.device.run("mender-monitorctl disable vulnscan slow")
        here.device.wait("! pgrep --exact sleep --list-full | grep 4321")
        here.device.run("systemctl start mender-monitor")
    here.device.run("mender-monitorctl delete vulnscan slow")
