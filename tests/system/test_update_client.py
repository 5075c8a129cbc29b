"""
Beside the real update client, installed from the package: Debian's mender-client, the older generation.

It authenticates over TLS with a private authority; our sender, in its sandbox, gets the token over D-Bus.
Then the same without an update client, with keys made by openssl.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.receiver import SOURCE, ReceiverProcess
from tests.system import packages
from tests.system.device import Device
from tests.system.events import RETURN_SECONDS, Events
from tests.system.product import IDENTITY, SERVICES, Site, know_server, write

NAME, HERE, ELSEWHERE = "mender.test", "127.0.0.1", "127.0.0.9"
CA = "/etc/mender/authority.crt"
CLIENT = "io.mender.AuthenticationManager /io/mender/AuthenticationManager io.mender.Authentication1"
VICTIM = "Service victim not running"
# So long that whatever arrives in a test was announced; and so short that a test can wait for it.
FAR, NEAR = 3600, 1


@pytest.fixture(scope="module")
def package() -> Path:
    return packages.built()[packages.MAIN]


class Place(Site):
    """
    A device with the package, its server, and a place for others.

    *another* makes a server at an address of the device's network, with options of the receiver's; *memory*
    are those with which it remembers what the first one does.
    """

    def __init__(
        self,
        device: Device,
        server: ReceiverProcess,
        another: Callable[..., ReceiverProcess],
        memory: tuple[str, str],
    ) -> None:
        super().__init__(device, server)
        self.another = another
        self.memory = memory


@contextmanager
def installed(folder: Path, package: Path, *options: str, update_client: bool) -> Iterator[Place]:
    """A device with the package. *options* are those of every server."""
    authority = Authority(folder)
    pair = authority.issue(NAME, ELSEWHERE)

    def another(address: str, *more: str) -> ReceiverProcess:
        home = Path(tempfile.mkdtemp(dir=folder))
        tls = ("--cert", str(pair.certificate), "--key", str(pair.key))
        place = ("--host", address, "--port", "443")
        return ReceiverProcess(home, *place, *tls, *options, *more, prefix=device.in_network)

    def prepare(root: Path) -> None:
        if not update_client:
            in_chroot(root, "dpkg", "--purge", "mender-client")
        know_server(root, update_client=update_client)
        write(root / "etc/mender-monitor/monitor.conf", settings(FAR))
        write(root / "etc/mender/mender.conf", mender_conf(NAME))
        write(root / "etc/hosts", f"{HERE} {NAME}\n")
        shutil.copy(authority.certificate, root / CA.lstrip("/"))
        for name, text in SERVICES.items():
            write(root / f"etc/systemd/system/{name}.service", text)
        shutil.copy(package, root / "root")
        in_chroot(root, "dpkg", "--install", f"/root/{package.name}")
        # That the client is stopped is an alert too, which only one of the tests wants.
        (root / "etc/mender-monitor/monitor.d/enabled/service_mender-client.sh").unlink()
        first.start()

    device = Device(prepare)
    memory = ("--database", str(folder / "server.db"))
    first = another(HERE, *memory)
    try:
        with device:
            place = Place(device, first, another, memory)
            device.run("systemctl start victim")
            place.watch("service", "victim", "systemd")
            yield place
    finally:
        first.stop()


def in_chroot(root: Path, *command: str) -> None:
    done = subprocess.run(
        ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", *command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def mender_conf(host: str, **more: str) -> str:
    """That the server is *host*, and signed by the tests' authority."""
    return json.dumps({"ServerURL": f"https://{host}", "ServerCertificate": CA, **more})


def settings(interval: int, **more: str) -> str:
    """monitor.conf: *interval* seconds between attempts."""
    values = {
        "DEFAULT_ALERT_STORE_RESEND_INTERVAL_S": interval,
        "SEND_ALERT_MAX_INTERVAL_S": 0,
        "ALERT_REQUESTS_PER_MINUTE": 0,
        "FLAPPING_COUNT_THRESHOLD": 1000,
        **more,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def use(site: Site, text: str) -> None:
    """Other settings, read at once."""
    site.device.write("/etc/mender-monitor/monitor.conf", text)
    site.device.run("systemctl reload mender-monitor")


def tell(site: Site) -> None:
    """A service stops and starts: both alerts arrive, in order, once."""
    known = len(site.server.alerts())
    for action, level in (("stop", "CRITICAL"), ("start", "OK")):
        site.device.run(f"systemctl {action} victim")
        site.device.wait(f"mender-monitorctl status | grep -q '^{level} .*service victim'")
    alerts = site.server.wait_for(lambda alerts: len(alerts) >= known + 2, RETURN_SECONDS)
    assert [(a["name"], a["level"]) for a in alerts[known:]] == [(VICTIM, "CRITICAL"), (VICTIM, "OK")]


def stored(site: Site, *, reason: str) -> Events:
    """A service stops and starts, twice, and for this *reason* its alerts wait."""
    events = Events(site)
    for action, level in (("stop", "CRITICAL"), ("start", "OK")) * 2:
        events.happen(f"systemctl {action} victim", VICTIM, level)
    wait_for_reason(site, reason)
    return events


def wait_for_reason(site: Site, reason: str) -> None:
    said: list[dict[str, Any]] = []

    def is_said() -> bool:
        said.append(site.status()["sender"])
        return reason in said[-1]["reason"]

    try:
        site.device.wait_until(is_said)
    except AssertionError as error:
        raise AssertionError(f"{reason!r} is not said, but {said[-1]}") from error


def arrive(site: Site, events: Events, known: int) -> None:
    """All *events* arrive, in order, once, with their times; *known* alerts came before them."""
    alerts = site.server.wait_for(lambda alerts: events.arrived(alerts[known:]), RETURN_SECONDS)
    events.check(alerts[known:])


def tokens(site: Site) -> int:
    """How many tokens the update client has got."""
    site.device.run("journalctl --sync")
    journal = site.device.journal("--unit=mender-client", lines=10_000)
    return journal.count("received new authorization data")


# Beside the update client


@pytest.fixture(scope="module")
def with_client(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with installed(tmp_path_factory.mktemp("client"), package, update_client=True) as place:
        yield place


@pytest.fixture
def beside(with_client: Place) -> Place:
    """All is well when a test begins; what is not announced comes late, what is announced at once."""
    place = with_client
    place.device.write("/etc/mender-monitor/monitor.conf", settings(FAR))
    # A fresh start: how often announcements are followed is bounded, and earlier tests have made some.
    place.device.run("systemctl start mender-client victim && systemctl restart mender-monitor")
    place.device.wait(f"busctl call {CLIENT} GetJwtToken | grep -q http:")
    place.device.wait_until(lambda: place.state("service", "victim") == "OK")
    place.device.wait_until(lambda: place.status()["outbox"]["waiting"] == 0)
    return place


@pytest.fixture
def elsewhere(beside: Place) -> Iterator[Site]:
    """Another server, with the name and certificate of the first; the device is sent there by the test."""
    with beside.another(ELSEWHERE) as server:
        yield Site(beside.device, server)


@contextmanager
def away(site: Site) -> Iterator[None]:
    """Its server does not listen."""
    port_is_open = f"bash -c '</dev/tcp/{HERE}/443'"
    site.server.fault("refuse", seconds=3600)
    site.device.wait(f"! {port_is_open}")
    try:
        yield
    finally:
        site.server.reset()
        site.device.wait(port_is_open)


def fetch(site: Site) -> None:
    """As the client's other programs do when they want a fresh token: the result is announced to all."""
    site.device.run(f"busctl call {CLIENT} FetchJwtToken")


def test_alerts_arrive_with_the_clients_token(beside: Place) -> None:
    """The server knows one device, the update client's, and the alerts are of that one."""
    tell(beside)
    (device,) = beside.server.request("GET", "/devices")
    path = f"/api/management/v1/devicemonitor/devices/{device['id']}/alerts/latest"
    assert [alert["level"] for alert in beside.server.request("GET", path)] == ["OK"]
    token = beside.device.run(f"busctl call {CLIENT} GetJwtToken").split('"')[1]
    assert token.startswith("ey")
    assert token not in beside.device.journal(lines=10_000)


def test_a_client_that_is_stopped_and_started(beside: Place) -> None:
    """The alerts wait, its own among them; the client's return is announced."""
    known = len(beside.server.alerts())
    beside.device.run("mender-monitorctl enable service mender-client")
    beside.device.wait_until(lambda: beside.state("service", "mender-client") == "OK")
    events = Events(beside)
    events.happen("systemctl stop mender-client", "Service mender-client not running", "CRITICAL")
    events.happen("systemctl stop victim", VICTIM, "CRITICAL")
    wait_for_reason(beside, "the update client is not running")
    # Whether its OK is stored before the first alerts are sent is chance.
    beside.device.run("systemctl start mender-client")
    events.expected.append(("Service mender-client not running", "OK"))
    alerts = beside.server.wait_for(lambda alerts: events.arrived(alerts[known:]), RETURN_SECONDS)
    beside.device.run("mender-monitorctl disable service mender-client")
    assert [(alert["name"], alert["level"]) for alert in alerts[known:]] == events.expected


def test_a_client_that_is_restarted(beside: Place) -> None:
    """Its proxy is elsewhere then, and it has no token at first."""
    before = beside.device.run(f"busctl call {CLIENT} GetJwtToken")
    beside.device.run("systemctl restart mender-client")
    tell(beside)
    assert beside.device.run(f"busctl call {CLIENT} GetJwtToken") != before


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_token_that_has_ended(beside: Place, end: str) -> None:
    """One fresh token is asked for, and the alerts arrive with that."""
    expected = tokens(beside) + 1
    if end == "revoked":
        (device,) = beside.server.request("GET", "/devices")
        beside.server.request("DELETE", f"/devices/{device['id']}/tokens")
    else:
        hold_token_that_expires(beside)
        expected += 1
    tell(beside)
    assert tokens(beside) == expected


def hold_token_that_expires(place: Place) -> None:
    """The client gets a token that is good for three seconds; returns after these."""
    before = tokens(place)
    with away(place), place.another(HERE, *place.memory, "--token-seconds", "3"):
        fetch(place)
        place.device.wait_until(lambda: tokens(place) > before)
        got = place.now()
    place.device.wait_until(lambda: place.now() > got + 3)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_a_server_that_is_away(beside: Place, announced: bool) -> None:
    """The client's proxy answers for it meanwhile; its return is announced, or found out by trying."""
    known = len(beside.server.alerts())
    use(beside, settings(FAR if announced else NEAR))
    with away(beside):
        events = stored(beside, reason="proxy does not reach the server (503)")
    if announced:
        fetch(beside)
    arrive(beside, events, known)


def test_a_server_that_is_away_while_the_client_starts(beside: Place) -> None:
    """The client has neither token nor proxy then."""
    known = len(beside.server.alerts())
    with away(beside):
        beside.device.run("systemctl restart mender-client")
        events = stored(beside, reason="the update client has no token")
    fetch(beside)
    arrive(beside, events, known)


def test_a_server_that_does_not_accept_the_device_any_more(beside: Place) -> None:
    known = len(beside.server.alerts())
    (device,) = beside.server.request("GET", "/devices")
    accept = f"/devices/{device['id']}/status"
    beside.server.request("PUT", accept, {"status": "rejected"})
    events = stored(beside, reason="the device is not accepted")
    beside.server.request("PUT", accept, {"status": "accepted"})
    fetch(beside)
    arrive(beside, events, known)


def test_a_server_that_moves_while_alerts_wait(beside: Place, elsewhere: Site) -> None:
    """mender.conf names another address, and the client is restarted."""
    try:
        with away(beside):
            events = stored(beside, reason="503")
            beside.device.write("/etc/mender/mender.conf", mender_conf(ELSEWHERE))
            beside.device.run("systemctl restart mender-client")
            arrive(elsewhere, events, 0)
    finally:
        beside.device.write("/etc/mender/mender.conf", mender_conf(NAME))
        beside.device.run("systemctl restart mender-client")


def test_a_name_that_moves_to_another_server(beside: Place, elsewhere: Site) -> None:
    """Nothing on the device changes but the address; the other server does not know the token."""
    use(beside, settings(NEAR))
    try:
        with away(beside):
            beside.device.write("/etc/hosts", f"{ELSEWHERE} {NAME}\n")
            tell(elsewhere)
    finally:
        beside.device.write("/etc/hosts", f"{HERE} {NAME}\n")
        # It remembers the name's address for five seconds, and keeps its connection.
        beside.device.run("systemctl restart mender-client")


def test_the_newer_generation(beside: Place, tmp_path: Path) -> None:
    """Its stand-in on the device's own bus: our policy and sandbox let the sender use it all the same."""
    device = beside.device
    device.write("/root/update_client.py", (SOURCE / "tests/fakes/update_client.py").read_text())
    device.run("systemctl stop mender-client")
    options = ("--port", "8080", "--open")
    try:
        with ReceiverProcess(tmp_path, *options, prefix=device.in_network) as server:
            program = NEWER_CLIENT.format(url=server.url)
            unit = ("systemd-run", "--quiet", "--unit=newer-client", "--working-directory=/root")
            device.run(shlex.join([*unit, "python3", "-c", program]))
            device.wait(f"busctl call {CLIENT} GetJwtToken")
            tell(Site(device, server))
            assert device.run(f"busctl call {CLIENT} GetJwtToken").startswith('ss "token-')
    finally:
        device.run("systemctl stop newer-client")


NEWER_CLIENT = """
import signal, update_client
update_client.UpdateClient("cpp", "{url}").start()
signal.pause()
"""


# Without an update client


@pytest.fixture(scope="module")
def without_client(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with installed(tmp_path_factory.mktemp("alone"), package, "--pending", update_client=False) as place:
        yield place


@pytest.fixture
def alone(without_client: Place) -> Place:
    """No update client; devices wait to be accepted."""
    without_client.device.run("systemctl start victim")
    return without_client


def use_key(place: Place, name: str, command: str, interval: int = NEAR) -> None:
    """The key /etc/mender/NAME.pem, made by *command* of openssl."""
    path = f"/etc/mender/{name}.pem"
    place.device.run(f"umask 077; openssl {command} >{path}")
    use(place, settings(interval, DEVICE_KEY=path))


FROM_THE_NETWORK = """#!/bin/sh
python3 -c 'import socket; socket.socket()' && echo serial=1
"""


def accept(place: Site) -> None:
    """Accept the devices that wait for it."""
    for device in place.server.request("GET", "/devices"):
        place.server.request("PUT", f"/devices/{device['id']}/status", {"status": "accepted"})


def test_no_client_and_no_key(alone: Place) -> None:
    """Then a key, and an identity that only a program outside the monitor's sandbox can tell."""
    known = len(alone.server.alerts())
    alone.device.write(IDENTITY, FROM_THE_NETWORK, 0o755)
    events = stored(alone, reason="the update client is not running: nobody has its D-Bus name")
    use_key(alone, "first", "genpkey -algorithm ed25519")
    wait_for_reason(alone, "the server has not accepted the device (yet): accept it there")
    accept(alone)
    arrive(alone, events, known)


@pytest.mark.parametrize(
    "command",
    [
        "genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:3072",
        "genrsa -traditional 2048",
        "genpkey -algorithm ed25519",
        "genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256",
        "ecparam -genkey -name prime256v1",
    ],
    ids=["rsa", "pkcs1", "ed25519", "ec", "ec-with-parameters"],
)
def test_a_key_made_by_openssl(alone: Place, request: pytest.FixtureRequest, command: str) -> None:
    """Each is another device for the server, which waits to be accepted."""
    known = len(alone.server.alerts())
    use_key(alone, request.node.callspec.id, command)
    events = stored(alone, reason="the server has not accepted the device (yet): accept it there")
    accept(alone)
    arrive(alone, events, known)
    tell(alone)


def test_a_server_that_moves_without_a_client(alone: Place) -> None:
    """mender.conf names another address: the next attempt goes there, and nothing has to be restarted."""
    use_key(alone, "mover", "genpkey -algorithm ed25519")
    try:
        with alone.another(ELSEWHERE) as server, away(alone):
            elsewhere = Site(alone.device, server)
            events = stored(alone, reason=f"https://{NAME}")
            alone.device.write("/etc/mender/mender.conf", mender_conf(ELSEWHERE))
            wait_for_reason(alone, "accept it there")
            accept(elsewhere)
            arrive(elsewhere, events, 0)
    finally:
        alone.device.write("/etc/mender/mender.conf", mender_conf(NAME))


def test_a_server_that_is_not_trusted(alone: Place) -> None:
    """Until its authority is one of the system's."""
    known = len(alone.server.alerts())
    use_key(alone, "doubter", "genpkey -algorithm ed25519")
    alone.device.write("/etc/mender/mender.conf", mender_conf(NAME, ServerCertificate=""))
    try:
        events = stored(alone, reason="CERTIFICATE_VERIFY_FAILED")
        alone.device.run(f"cp {CA} /usr/local/share/ca-certificates && update-ca-certificates")
        wait_for_reason(alone, "accept it there")
        accept(alone)
        arrive(alone, events, known)
    finally:
        alone.device.write("/etc/mender/mender.conf", mender_conf(NAME))
