"""`monitorctl secure` on devices: bare, with sshd and nginx, and where systemd is not the first process."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.chroot import chroot
from tests.system.device import Device
from tests.system.product import Site, install_product, site

SECURE = "mender-monitorctl secure"
FOLDER = "/etc/mender-monitor"
STATE = f"cd {FOLDER} && find . -type f -exec sha256sum {{}} + -o -type l -printf '%p -> %l\\n' | sort"
HALF_ENABLED = f"""
for link in $(find {FOLDER}/monitor.d/enabled -name '*.sh'); do
    name=$(basename "$link" .sh)
    test -s "$link" || echo "$name has no file"
    case $name in ports_*|setuid_*|process_*|integrity_*)
        test -s "{FOLDER}/baseline.d/$name.list" || echo "$name has no list" ;;
    esac
done
find {FOLDER} -name '.*.staged'
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A device with sshd, nginx and the update client, which sees each program that is executed."""
    with site(tmp_path_factory.mktemp("served"), update_client=True, fanotify=True) as made:
        made.device.run("systemctl start nginx")
        yield made


def plan(device: Device, options: str = "") -> dict[str, dict[str, Any]]:
    """What it would do, by check or scenario."""
    return by_name(device.attempt(f"{SECURE} --json {options} 2>/dev/null").stdout)


def by_name(text: str) -> dict[str, dict[str, Any]]:
    return {f"{one['subsystem']} {one['name']}".strip(): one for one in json.loads(text)["checks"]}


def values(step: dict[str, Any]) -> dict[str, str]:
    return {setting["name"]: setting["value"] for setting in step["settings"]}


def test_a_bare_device(here: Site) -> None:
    """
    What is left out has its reason; nobody can be asked here, so nothing changes; a provisioner says --yes.
    """
    device = here.device
    device.run("systemctl stop ssh")
    before = device.run(STATE)
    refused = device.attempt(SECURE)
    assert refused.returncode == 1
    assert "--yes is needed where nobody can be asked" in refused.stdout
    proposed = device.attempt(f"{SECURE} --json 2>/dev/null")
    assert (proposed.returncode, json.loads(proposed.stdout)["done"]) == (1, False)
    found = by_name(proposed.stdout)
    assert found["wifi"]["state"] == "left out"
    assert found["wifi"]["reason"]
    assert found["ports external"]["entries"] == 0
    assert found["process all"]["entries"] > 300
    assert device.run(STATE) == before

    done = json.loads(device.run(f"{SECURE} --yes --json"))
    assert done["done"]
    assert device.attempt(f"{SECURE} --check").returncode in (0, 1)
    after = device.run(STATE)
    assert "Nothing to do" in device.run(SECURE)
    assert json.loads(device.run(f"{SECURE} --json"))["done"]
    assert device.run(STATE) == after


def test_who_is_not_root_is_told_so(here: Site) -> None:
    done = here.device.attempt(SECURE, user="nobody")
    assert done.returncode == 1
    assert "run it as root" in done.stdout


def test_a_device_with_services_is_covered_and_quiet(served: Site) -> None:
    """
    Proposals with their reasons; then all states are known, and usual work is no finding. A program that came
    later is one, in the folders of the system too.
    """
    device = served.device
    found = plan(device)
    assert [name for name in found if name.startswith("pid")] == ["pid mender-client", "pid nginx", "pid ssh"]
    assert found["ports external"]["entries"] == 2
    assert values(found["process all"])["PROCESS_LEARN"] == "running installed"
    not_yet = device.attempt(f"{SECURE} --check")
    assert not_yet.returncode == 1
    assert "NOT COVERED  pid nginx" in not_yet.stdout

    # By nsenter the commands of this test come into the device, where it runs for a moment.
    device.run(f"{SECURE} --yes && mender-monitorctl baseline accept process all elsewhere:/usr/bin/nsenter")
    device.wait_until(lambda: _known(served), 400)
    coverage = json.loads(device.attempt(f"{SECURE} --check --json").stdout)
    assert {one["name"] for one in coverage["checks"] if one["coverage"] == "covered"} >= {
        "external", "all", "core", "system", "nginx", "ssh", "mender-client",
    }  # fmt: skip

    for work in (
        "run-parts /etc/cron.daily",
        "logrotate --force /etc/logrotate.conf",
        "systemctl reload nginx",
    ):
        device.run(work)
    device.run("install /bin/true /usr/bin/late && late")
    served.expect("Unexpected process /usr/bin/late", "CRITICAL")
    assert [alert["name"] for alert in served.server.alerts()] == ["Unexpected process /usr/bin/late"]


def test_a_person_is_asked(served: Site) -> None:
    """
    The table, then a question; no answer but yes changes anything.
    """
    device = served.device
    device.run("mender-monitorctl disable pid nginx")
    before = device.run(STATE)
    asked = device.attempt(f"echo n | script -qec '{SECURE}' /dev/null")
    assert "Enable 1 check?" in asked.stdout
    assert device.run(STATE) == before
    device.run(f"echo y | script -qec '{SECURE}' /dev/null")
    assert "pid_nginx.sh" in device.run("mender-monitorctl list")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_leaves_nothing_half_enabled(served: Site, number: signal.Signals) -> None:
    """
    At any moment: all or nothing is enabled, and what is enabled has its file and its list.
    """
    device = served.device
    device.run(f"{SECURE} --yes")
    expected = len(device.run("mender-monitorctl list").split())
    undo = f"rm -f {FOLDER}/monitor.d/enabled/* {FOLDER}/baseline.d/*.list"
    for delay in (0.2, 0.5, 0.8, 1.0):
        device.run(undo)
        device.attempt(f"timeout --signal={number.name} {delay} {SECURE} --yes")
        count = len(device.run("mender-monitorctl list").split())
        assert count in (0, expected), count
        left = device.run(HALF_ENABLED)
        assert not left or number is signal.SIGKILL, left
    device.run(f"{SECURE} --yes")
    assert device.run(HALF_ENABLED) == ""


def test_where_systemd_is_not_the_first_process(tmp_path: Path) -> None:
    """
    Processes are found by their programs; the daemon is for whoever starts things there.
    """
    with chroot("bookworm", tmp_path / "chroot") as debian:
        install_product(debian.root)
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--net", f"--mount-proc={debian.root}/proc"]
        script = (
            "mkdir -p /run/sshd && ssh-keygen -qA && /usr/sbin/sshd && "
            "until test -s /run/sshd.pid; do sleep 0.1; done; "
            f"{SECURE} --json; {SECURE} --yes | tail -n 1; kill $(cat /run/sshd.pid)"
        )
        command = [*apart, "chroot", str(debian.root), "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    text, _, last = done.stdout.rpartition("}\n")
    assert text, done.stderr
    found = {one["name"]: one for one in json.loads(text + "}")["checks"]}
    assert values(found["sshd"]) == {"PID_EXE": "/usr/sbin/sshd"}
    assert "there is no systemd here" in found["sshd"]["settings"][0]["why"]
    assert "The monitor does not run" in last


def _known(served: Site) -> bool:
    # A scan waits for its time.
    checks = [one for one in served.status()["checks"] if one["enabled"] and one["subsystem"] != "vulnscan"]
    return bool(checks) and all(check["state"] != "starting" for check in checks)
