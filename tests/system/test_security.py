"""Ports, programs and restarts on a booted device, by the daemon in its unit: what it sees in a container."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.product import Site

LISTENER = "import socket, time; s = socket.create_server(('0.0.0.0', 4444)); time.sleep(600)"


def notes(site: Site, subsystem: str, name: str) -> str:
    """What limits a check, as the status says it."""
    found: list[dict[str, Any]] = [
        check for check in site.status()["checks"] if (check["subsystem"], check["name"]) == (subsystem, name)
    ]
    return " ".join(found[0]["notes"]) if found else ""


def test_an_open_port(here: Site) -> None:
    """CRITICAL with who opened it, OK when it is closed; the receiver's own port is listed."""
    here.watch("ports", "external", "PORTS_ALLOW=tcp 8080, tcp 22, udp 0-65535, tcp 5355")
    assert here.state("ports", "external") == "OK"
    here.device.run(f'systemd-run --unit=backdoor python3 -c "{LISTENER}"')
    name = "Unexpected open port tcp/4444"
    (alert,) = here.expect(name, "CRITICAL")
    assert alert["subject"]["name"].startswith("tcp/4444 /usr/bin/python3")
    assert "systemd unit: backdoor.service" in alert["subject"]["details"]["description"]
    here.device.run("systemctl stop backdoor")
    here.expect(name, "CRITICAL", "OK")
    here.device.run("mender-monitorctl disable ports external")


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
