"""The packages on a running device: what a new user sees, the sandboxes, a read-only system."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.receiver import ReceiverProcess
from tests.system import packages
from tests.system.device import STOP_SECONDS, Device, tell
from tests.system.packages import DEMO, MAIN, RECEIVER
from tests.system.product import PORT, URL, Site, know_server

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
TESTS = packages.SOURCE / "debian/tests"
UPDATE_CLIENT = packages.SOURCE / "tests/fakes/update_client.py"
RUN_UPDATE_CLIENT = (
    'import signal, update_client as u; u.UpdateClient("direct", "http://h").start(); signal.pause()'
)
# As the update client brings it.
CLIENTS_POLICY = """\
<busconfig>
  <policy user="root">
    <allow own="io.mender.AuthenticationManager"/>
    <allow send_destination="io.mender.AuthenticationManager"/>
    <allow receive_sender="io.mender.AuthenticationManager"/>
  </policy>
</busconfig>
"""
MAX_EXPOSURE = {"mender-monitor.service": 4.0, "mender-monitor-sender@1.service": 1.5}


@pytest.fixture(scope="session")
def debs() -> dict[str, Path]:
    return packages.built()


@pytest.fixture
def prepared(debs: dict[str, Path]) -> Callable[[Path], None]:
    """On a device that has not booted yet: our packages, their tests, and a key for the server."""

    def prepare(root: Path) -> None:
        for deb in debs.values():
            shutil.copy(deb, root / "root")
        shutil.copytree(TESTS, root / "root/tests")
        know_server(root, update_client=False)

    return prepare


@pytest.fixture(params=["bookworm", "trixie"])
def device(request: pytest.FixtureRequest, prepared: Callable[[Path], None]) -> Iterator[Device]:
    """A device with none of our packages installed yet."""
    with Device(prepared, request.param) as device:
        yield device
        tell(device)


@pytest.fixture
def server(device: Device, tmp_path: Path) -> Iterator[ReceiverProcess]:
    """A server in the device's network."""
    with ReceiverProcess(tmp_path, "--port", str(PORT), prefix=device.in_network) as server:
        yield server


def install(device: Device, *names: str) -> None:
    device.run(f"{INSTALL} {' '.join(f'/root/{name}_*.deb' for name in names)}", seconds=300)


def test_a_new_user_installs_one_file_and_has_a_monitored_device(device, server, capsys):
    """And what the monitor does for it stays within its sandboxes, with nothing denied."""
    install(device, MAIN)
    site = Site(device, server)
    site.watch("service", "cron", "systemd")

    device.run("systemctl stop cron")
    site.expect("Service cron not running", "CRITICAL")
    device.run("systemctl start cron")
    site.expect("Service cron not running", "CRITICAL", "OK")

    assert len(server.alerts()) == 2
    with capsys.disabled():  # the figures belong into the output of the tests
        print()
        assert_within_the_sandboxes(device)
    journal = device.journal("--unit=mender-monitor*", lines=1000)
    assert not re.search(r"(?i)denied|not permitted|read-only|traceback|failed", journal), journal


def assert_within_the_sandboxes(device: Device) -> None:
    for unit, most in MAX_EXPOSURE.items():
        printed = device.run(f"systemd-analyze security --no-pager {unit}")
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", printed)
        assert found is not None and float(found[1]) <= most, printed
        print(found[0])
    pid = device.run("systemctl show --value --property=MainPID mender-monitor").strip()
    status, of_the_device = process_status(device, pid), process_status(device, "1")
    assert status["NoNewPrivs"] == "1"
    # capability.h: dac_read_search, net_admin, sys_ptrace, sys_admin; a container lacks some of them itself
    wanted = sum(1 << number for number in (2, 12, 19, 21)) & int(of_the_device["CapBnd"], 16)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == wanted


def process_status(device: Device, pid: str) -> dict[str, str]:
    """/proc/PID/status, see proc(5)."""
    return dict(line.split(":\t") for line in device.read(f"/proc/{pid}/status").splitlines())


def test_the_senders_user_may_ask_for_the_token_and_nothing_else(device):
    """On the device's own bus, with somebody who owns the update client's name."""
    device.write("/usr/share/dbus-1/system.d/io.mender.AuthenticationManager.conf", CLIENTS_POLICY)
    install(device, MAIN)
    client = "io.mender.AuthenticationManager /io/mender/AuthenticationManager"
    device.write("/root/update_client.py", UPDATE_CLIENT.read_text())
    with device.start(f"cd /root && exec python3 -c '{RUN_UPDATE_CLIENT}'") as fake:
        try:
            device.wait(f"busctl call {client} io.mender.Authentication1 GetJwtToken")

            def refused(call: str) -> bool:
                done = device.attempt(f"busctl call --timeout=20 {call}", user="_mender-monitor")
                return done.returncode != 0 and "denied" in done.stdout.lower()

            assert not refused(f"{client} io.mender.Authentication1 GetJwtToken")
            assert not refused(f"{client} io.mender.Authentication1 FetchJwtToken")
            assert refused(f"{client} io.mender.Authentication1 Another")
            assert refused(f"{client} org.freedesktop.DBus.Peer Ping")
            bus = "org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus"
            assert not refused(f"{bus} NameHasOwner s io.mender.AuthenticationManager")
            assert refused(f"{bus} ListNames")
            assert refused(f"{bus} RequestName su io.mender.Another 0")
            manager = "org.freedesktop.systemd1 /org/freedesktop/systemd1"
            assert refused(f"{manager} org.freedesktop.systemd1.Manager ListUnits")
            assert refused(
                f"{manager} org.freedesktop.DBus.Properties Get ss org.freedesktop.systemd1.Manager Version"
            )
        finally:
            fake.terminate()


def test_what_users_run_sees_the_device_as_root_does(device, server):
    """The watcher's sandbox does not reach the commands of checks; their runner exists only with them."""
    install(device, MAIN)
    device.write("/usr/local/bin/look", LOOK.replace("URL", URL), 0o755)
    with device.start(f"exec python3 -c '{DOCKER}'") as docker:
        try:
            device.wait("test -S /run/docker.sock")
            expected = device.run(
                "touch /tmp/mine && systemd-run -q --pipe --wait --uid=root /usr/local/bin/look once"
            )
            device.run("mender-monitorctl create log look SAW @/usr/local/bin/look")
            device.run("mender-monitorctl enable log look")
            device.wait("test -s /tmp/look.out")
        finally:
            docker.terminate()

    assert device.read("/tmp/look.out") == expected
    assert "docker" in expected
    device.run(f"{RUNNERS} | grep .")
    device.run("mender-monitorctl disable log look")
    device.wait(f"! {RUNNERS} | grep .")


SENDERS = "systemctl list-units --plain --no-legend 'mender-monitor-sender@*'"
# Keeps a sender busy, as the update client does that has no token for it; ends with it.
BUSY_SENDER = 'import socket as s; c = s.socket(1); c.connect("/run/mender-monitor/sender.sock"); c.recv(1)'
RUNNERS = "systemctl list-units --plain --no-legend 'mender-monitor-runner@*'"
DOCKER = 'import signal, socket as s; d = s.socket(1); d.bind("/run/docker.sock"); d.listen(); signal.pause()'

# Prints what it sees; as a check's command it does so once, to a file in /tmp.
LOOK = """\
#!/bin/bash
if [ "$1" != once ]; then
    "$0" once >/tmp/look.new && mv /tmp/look.new /tmp/look.out
    exec sleep infinity
fi
exec 2>&1
curl --silent --output /dev/null --write-out 'curl %{http_code}\\n' URL/
ls /tmp/mine
mkdir -p /mnt/look && mount -t tmpfs none /mnt/look && umount /mnt/look && echo mounted
for folder in /etc /usr /home /root /run; do touch $folder/look && rm $folder/look && echo $folder; done
python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/run/docker.sock"); print("docker")'
journalctl --no-pager --lines 1 --output cat --boot _PID=1 | wc -l
systemctl is-active dbus
systemctl restart cron && echo restarted
grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
readlink /proc/self/ns/mnt /proc/self/ns/net
echo "$HOME $USER $(id -u) $(pwd)"
"""


def test_a_read_only_system_with_a_data_partition(device, server):
    """State in /data, by a link that dangles at the first start."""
    device.run("mkdir -p /data && ln -s /data/mender-monitor /var/lib/mender-monitor")
    install(device, MAIN)
    site = Site(device, server)
    site.watch("service", "cron", "systemd")
    device.run("systemctl stop mender-monitor && rm -r /data/mender-monitor")
    # Refused as busy while somebody has just a file of it open to write.
    remount = "mount -o remount,bind,ro /$folder"
    read_only = f"mount --bind /$folder /$folder; until {remount}; do sleep 0.2; done"
    device.run(f"mount -t tmpfs tmpfs /data; for folder in etc usr var root; do {read_only}; done")
    assert device.attempt("touch /etc/x || touch /var/lib/x").returncode

    device.run("systemctl start mender-monitor && systemctl stop cron")

    site.expect("Service cron not running", "CRITICAL")
    assert device.run("ls -A /data/mender-monitor").split()
    assert device.run("stat --format=%a /data/mender-monitor").strip() == "700"
    device.run("test -L /var/lib/mender-monitor")


def test_an_upgrade_restarts_and_a_removal_stops(device, debs, tmp_path):
    install(device, MAIN, DEMO)
    before = device.run("systemctl show --value --property=MainPID mender-monitor")
    later = [packages.changed(debs[name], tmp_path, "0.1.1") for name in (MAIN, DEMO)]
    for deb in later:
        shutil.copy(deb, device.root / "root")

    device.run(f"{INSTALL} /root/*_0.1.1_all.deb")
    assert device.run("systemctl is-active mender-monitor").strip() == "active"
    assert device.run("systemctl show --value --property=MainPID mender-monitor") != before

    with device.start(f"exec python3 -c '{BUSY_SENDER}'") as busy:
        device.wait(f"{SENDERS} | grep .")
        device.run(f"apt-get purge -y {MAIN} {DEMO}")
        busy.wait(STOP_SECONDS)
    device.wait("! pgrep -f [m]ender.monitor")
    others = " ".join(
        f"-not -path '/{folder}/*'" for folder in ("root", "var/cache", "var/lib/dpkg", "var/log")
    )
    assert device.run(f"find / -xdev -ipath '*mender*monitor*' {others}") == ""
    assert device.run("ls /run/mender-monitor /run/monitoring-client.pid 2>/dev/null || true") == ""
    assert "_mender-monitor" not in device.read("/etc/passwd")


def test_the_original_is_replaced_while_it_runs(device, debs, tmp_path):
    shutil.copy(packages.original(tmp_path), device.root / "root")
    device.run("dpkg -i /root/mender-monitor_*.deb && systemctl is-active mender-monitor")

    install(device, MAIN)

    device.wait("mender-monitorctl status")
    assert device.run("systemctl is-enabled mender-monitor").strip() == "enabled"
    assert device.run("systemctl is-active mender-monitor").strip() == "active"


def test_debians_own_tests(device):
    """Those of debian/tests, on the installed packages."""
    install(device, MAIN, DEMO, RECEIVER)
    for stanza in (TESTS / "control").read_text().split("\n\n"):
        name = re.search(r"(?m)^Tests: (\S+)", stanza)
        assert name is not None
        device.run(
            f"mkdir -p /tmp/{name[1]} && AUTOPKGTEST_TMP=/tmp/{name[1]} /root/tests/{name[1]}", seconds=600
        )
