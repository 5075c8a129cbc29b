"""Ports, programs and restarts on a booted device, by the daemon in its unit: what it sees in a container."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.network import NETCAT
from tests.system.product import Site, site

LISTENER = "import socket, time; s = socket.create_server(('0.0.0.0', 4444)); time.sleep(600)"
# Ports are looked at in intervals: it goes as soon as somebody has looked.
UNTIL_TOLD = """
import os, socket, time
s = socket.create_server(('0.0.0.0', 4444))
while not os.path.exists('/run/told'): time.sleep(0.1)
"""


def notes(site: Site, subsystem: str, name: str) -> str:
    """What limits a check, as the status says it."""
    found: list[dict[str, Any]] = [
        check for check in site.status()["checks"] if (check["subsystem"], check["name"]) == (subsystem, name)
    ]
    return " ".join(found[0]["notes"]) if found else ""


FIVE = ("integrity core", "pid ssh", "ports external", "process all", "setuid system")
MOST_KIB = 30 * 1024


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A device with the five checks as they are shipped, on what was learned there."""
    with site(tmp_path_factory.mktemp("shipped")) as made:
        for check in FIVE:
            if check != "pid ssh":
                made.device.run(f"mender-monitorctl baseline learn {check}")
            if check == "process all":
                # By it the commands of these tests come into the device, where it runs for a moment.
                made.device.run(f"mender-monitorctl baseline accept {check} elsewhere:/usr/bin/nsenter")
            made.device.run(f"mender-monitorctl enable {check}")
        # The first scans have idle priority: on a busy machine they are late.
        try:
            made.device.wait_until(lambda: all(made.state(*check.split()) == "OK" for check in FIVE), 400)
        except AssertionError as error:
            raise AssertionError(made.device.run("mender-monitorctl status")) from error
        yield made


def test_all_five_as_they_are_shipped_are_small_and_know(shipped: Site) -> None:
    """What a container refuses is in the notes, as a fall-back; no check is unknown, none is in trouble."""
    allowed = ("process connector", "fanotify", "not all is seen at once")
    for check in FIVE:
        found = notes(shipped, *check.split())
        assert not found or any(text in found for text in allowed), found
    pid = shipped.device.run("systemctl show -P MainPID mender-monitor").strip()
    used = int(shipped.device.run(f"grep VmRSS /proc/{pid}/status").split()[1])
    assert used <= MOST_KIB
    assert shipped.server.alerts() == []


def test_the_ssh_servers_port_in_other_hands(shipped: Site) -> None:
    """The list has the port with its executable: the same port of another one is a finding, and ends."""
    name = "Unexpected open port tcp/22"
    shipped.device.run("systemctl stop ssh")
    shipped.device.run(f'systemd-run --unit=other python3 -c "{LISTENER.replace("4444", "22")}"')
    (alert,) = shipped.expect(name, "CRITICAL")
    assert alert["subject"]["name"].startswith("tcp/22 /usr/bin/python3")
    shipped.device.run("systemctl stop other && systemctl start ssh")
    shipped.expect(name, "CRITICAL", "OK")
    # The service was away, too, and is another process now.
    shipped.expect("Process ssh restarted", "CRITICAL")


def test_a_port_that_is_open_for_a_moment(shipped: Site) -> None:
    name = "Unexpected open port tcp/4444"
    with shipped.device.start(f'exec python3 -c "{UNTIL_TOLD}"'):
        shipped.expect(name, "CRITICAL")
        shipped.device.run("touch /run/told")
    shipped.expect(name, "CRITICAL", "OK")


def put_netcat(site: Site) -> None:
    """This machine's netcat, linked as Debian does; skips where it cannot run on the device."""
    root = site.device.root
    needed = re.findall(r"=> (/\S+)", subprocess.check_output(["ldd", NETCAT], text=True))
    for path in map(Path, [NETCAT, *needed]):
        place = root / str(path).lstrip("/")
        if not place.exists():
            shutil.copy(path, place)
    site.device.run("ln -sf /bin/nc.openbsd /etc/alternatives/nc && ln -sf /etc/alternatives/nc /usr/bin/nc")
    if (tried := site.device.attempt("nc -h")).returncode:
        pytest.skip(f"this machine's netcat does not run on the device: {tried.stdout}")


def test_open_ports(here: Site) -> None:
    """CRITICAL with who opened it, OK when it is closed; none for loopback alone, or a listed port."""
    put_netcat(here)
    here.watch("ports", "external", "PORTS_ALLOW=tcp 8080, tcp 22, udp 0-65535, tcp 5355")
    assert here.state("ports", "external") == "OK"
    for unit, address in (("local", "127.0.0.1 4443"), ("backdoor", "0.0.0.0 4444"), ("dual", ":: 4445")):
        here.device.run(f"systemd-run --unit={unit} nc -l -k {address}")
    for unit, port, shown in (("backdoor", 4444, "0.0.0.0"), ("dual", 4445, "[::]")):
        (alert,) = here.expect(f"Unexpected open port tcp/{port}", "CRITICAL")
        assert alert["subject"]["name"] == f"tcp/{port} {NETCAT}"
        text = alert["subject"]["details"]["description"]
        assert f"open on {shown}\n" in text
        assert f"systemd unit: {unit}.service" in text
    here.device.run("systemctl stop backdoor dual")
    for port in (4444, 4445):
        here.expect(f"Unexpected open port tcp/{port}", "CRITICAL", "OK")
    here.expect("Unexpected open port tcp/4443")
    here.device.run("systemctl stop local; mender-monitorctl disable ports external")


def test_a_program_where_there_is_no_process_connector(here: Site) -> None:
    """In a container the connector is silent. The status says so, and the program is seen all the same."""
    here.watch("process", "deny", "PROCESS_MODE=deny", "PROCESS_ALLOW=/opt/evil*")
    assert "process connector" in notes(here, "process", "deny")
    here.device.run("install -m 755 /bin/sleep /opt/evil")
    here.device.run("systemd-run --unit=evil /opt/evil 600")
    (alert,) = here.expect("Unexpected process /opt/evil", "CRITICAL")
    assert "systemd unit: evil.service" in alert["subject"]["details"]["description"]
    here.device.run("systemctl stop evil")
    if "fanotify" not in notes(here, "process", "deny"):
        here.device.run("install -m 755 /bin/true /opt/evil-short && /opt/evil-short")
        here.expect("Unexpected process /opt/evil-short", "CRITICAL")
    here.device.run("mender-monitorctl disable process deny")


@pytest.mark.parametrize("delay", ["10ms"])
def test_a_service_that_systemd_restarts_within_milliseconds(here: Site, delay: str) -> None:
    """The main process is another one; it is told with both numbers, and the service was never away."""
    here.device.write(
        "/etc/systemd/system/app.service",
        f"[Service]\nExecStart=/bin/sleep 600\nRestart=always\nRestartSec={delay}\n",
    )
    here.device.run("systemctl daemon-reload && systemctl start app")
    here.watch("pid", "app", "PID_SERVICE=app")
    first = here.device.run("systemctl show -P MainPID app").strip()
    here.device.run("systemctl kill --signal=KILL app")
    (alert,) = here.expect("Process app restarted", "CRITICAL")
    second = here.device.run("systemctl show -P MainPID app").strip()
    assert f"pid {first} became pid {second}" in alert["subject"]["details"]["description"]
    here.expect("Process app is not running")
    here.device.run("mender-monitorctl disable pid app && systemctl stop app")
