"""The receiver as a program, over HTTP: what devices, tools and people see of it."""

from __future__ import annotations

import base64
import datetime
import http.client
import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from tests.fakes.receiver import ALERT, MAIN, SOURCE, ReceiverProcess

AUTH = "/api/devices/v1/authentication/auth_requests"
CONFIG = "/api/devices/v1/devicemonitor/config"
MANAGEMENT = "/api/management/v1/devicemonitor/devices"


def alert(name: str = "a", level: str = "CRITICAL", minute: int = 0, **details: object) -> dict[str, Any]:
    subject = {"name": "s", "type": "t", "status": "u", "details": details}
    return {"name": name, "level": level, "timestamp": f"2026-01-31T12:{minute:02}:00Z", "subject": subject}


def call(
    url: str,
    value: object = None,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Status, body (JSON where it is) and headers of the answer. Raises OSError when there is none."""
    data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=30, context=context)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        text = answer.read().decode()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(text) if is_json else text, answer.headers


def auth_request(key: Any, identity: str = '{"mac": "00:11"}') -> tuple[bytes, dict[str, str]]:
    """The body and headers with which a device that holds *key* asks for a token."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = json.dumps({"id_data": identity, "pubkey": public.decode(), "tenant_token": ""}).encode()
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(body, ec.ECDSA(hashes.SHA256()))
    else:
        signature = key.sign(body)
    signed = base64.b64encode(signature).decode()
    return body, {"Content-Type": "application/json", "X-MEN-Signature": signed}


KEYS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
}


def token_of(server: ReceiverProcess, key: Any) -> dict[str, str]:
    body, headers = auth_request(key)
    status, token, _ = call(server.url + AUTH, body, headers=headers)
    assert status == 200, token
    return {"Authorization": f"Bearer {token}"}


def test_alerts_come_back_from_the_management_api(receiver: ReceiverProcess) -> None:
    """
    What a device sent can be read by page, in both directions and between two times.
    """
    sent = [alert("a", minute=minute) for minute in (3, 1, 2)]
    assert call(receiver.url + ALERT, sent)[0] == 204
    url = f"{receiver.url}{MANAGEMENT}/device/alerts"

    def minutes(query: str) -> tuple[list[int], str]:
        status, found, headers = call(f"{url}?{query}", method="GET")
        assert status == 200, found
        return [int(one["timestamp"][14:16]) for one in found], headers["X-Total-Count"]

    assert minutes("") == ([3, 2, 1], "3")
    assert minutes("sort_ascending=true") == ([1, 2, 3], "3")
    assert minutes("per_page=2&page=2") == ([1], "3")
    assert minutes("issued_after=2026-01-31T12:02:00Z") == ([3, 2], "2")
    assert minutes("issued_before=2026-01-31T12:01:30Z") == ([1], "1")
    assert call(f"{url}?page=0", method="GET")[0] == 400
    assert call(f"{url}?sort_ascending=maybe", method="GET")[0] == 400


def test_an_alert_is_told_as_it_was_sent(receiver: ReceiverProcess) -> None:
    """
    Lines, description and subject come back unchanged.
    """
    line = {"line_number": 2, "data": "é\t\u0000"}
    before = [{"line_number": 1, "data": ""}]
    sent = alert(description="d", lines_before=before, line_matching=line, lines_after=[])
    call(receiver.url + ALERT, [sent])
    (found,) = receiver.alerts()
    assert {name: found[name] for name in sent} == sent
    assert receiver.line(30) == "2026-01-31T12:00:00Z CRITICAL a (t s: u)"


def test_latest_is_the_state_of_each_alert(receiver: ReceiverProcess) -> None:
    """
    One entry for each name and subject, by the time of the event, not of its arrival.
    """
    call(receiver.url + ALERT, [alert("a", "OK", 5), alert("a", "CRITICAL", 4), alert("b", "CRITICAL", 1)])
    url = f"{receiver.url}{MANAGEMENT}/device/alerts/latest"
    _, found, _ = call(url, method="GET")
    assert [(one["name"], one["level"]) for one in found] == [("a", "OK"), ("b", "CRITICAL")]
    _, found, headers = call(url + "?level_from=WARNING", method="GET")
    assert [one["name"] for one in found] == ["b"]
    assert headers["X-Total-Count"] == "1"
    _, inventory, _ = call(f"{receiver.url}/api/management/v1/inventory/devices/device", method="GET")
    assert {"name": "alert_count", "scope": "monitor", "value": 1} in inventory["attributes"]


def test_the_inventory_is_what_the_device_sent_last(receiver: ReceiverProcess) -> None:
    """
    PUT replaces all, PATCH what it names; rubbish changes nothing.
    """
    address = f"{receiver.url}/api/devices/v1/inventory/device/attributes"

    def held() -> dict[str, object]:
        _, found, _ = call(f"{receiver.url}/api/management/v1/inventory/devices/device", method="GET")
        return {one["name"]: one["value"] for one in found["attributes"] if one["scope"] == "inventory"}

    assert call(address, [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}], method="PUT")[0] == 200
    assert call(address, [{"name": "b", "value": ["2", "3"]}], method="PATCH")[0] == 200
    assert held() == {"a": "1", "b": ["2", "3"]}
    many = [{"name": "c", "value": "x"}] * 101
    wrong: list[object] = [{}, [1], [{"name": "c"}], [{"name": "", "value": "x"}], many]
    assert [call(address, rubbish, method="PUT")[0] for rubbish in wrong] == [400] * len(wrong)
    assert call(address, [{"name": "c", "value": "x"}], method="PUT")[0] == 200
    assert held() == {"c": "x"}


def test_a_bad_request_changes_nothing(receiver: ReceiverProcess) -> None:
    """
    A request with one bad record is refused whole, with the reason.
    """
    status, answer, _ = call(receiver.url + ALERT, [alert(), {**alert(), "level": 5}])
    assert (status, answer["error"]) == (400, "[1].level must be a string")
    assert call(receiver.url + ALERT, b"x" * (1024 * 1024 + 1))[0] == 413
    assert receiver.alerts() == []


def test_the_configuration_is_kept(receiver: ReceiverProcess) -> None:
    """
    The newest configuration replaces the one before.
    """
    url = f"{receiver.url}{MANAGEMENT}/device/config"
    assert call(url, method="GET")[0] == 404
    config = [
        {"name": "c.sh", "type": "service", "status": "enabled", "service": {"name": "c", "type": "systemd"}}
    ]
    assert call(receiver.url + CONFIG, config)[0] == 204
    assert call(url, method="GET")[1] == config
    assert call(receiver.url + CONFIG, [])[0] == 204
    assert call(url, method="GET")[1] == []


@pytest.mark.parametrize("kind", KEYS)
def test_a_device_gets_a_token_by_its_signature(tmp_path: Path, kind: str) -> None:
    """
    Each kind of key is accepted with the right signature, and refused with another's.
    """
    key, other = KEYS[kind](), KEYS[kind]()
    with ReceiverProcess(tmp_path) as server:
        headers = token_of(server, key)
        assert call(server.url + ALERT, [alert()], headers=headers)[0] == 204
        assert [one["name"] for one in server.alerts()] == ["a"]

        body, right = auth_request(key)
        wrong = auth_request(other)[1]
        assert call(server.url + AUTH, body, headers=wrong)[0] == 401
        assert call(server.url + AUTH, body + b" ", headers=right)[0] == 401
        assert call(server.url + AUTH, body, headers={"Content-Type": "application/json"})[0] == 400
        assert call(server.url + AUTH, body, headers={**right, "Content-Type": "text/plain"})[0] == 400


@pytest.mark.parametrize(
    "change",
    [
        {"id_data": "{"},
        {"id_data": {}},
        {"id_data": "[]"},
        {"pubkey": "-----BEGIN RSA PUBLIC KEY-----"},
        {"pubkey": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"},
        {"surprise": ""},
    ],
)
def test_a_wrong_authentication_request_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """
    What the server would answer with 400 is answered so here.
    """
    body, headers = auth_request(KEYS["ed25519"]())
    with ReceiverProcess(tmp_path) as server:
        status, answer, _ = call(server.url + AUTH, {**json.loads(body), **change}, headers=headers)
    assert status == 400
    assert answer["error"]


def test_pending_accepted_revoked_rejected(tmp_path: Path) -> None:
    """
    A device goes through what a server's user can do with it.
    """
    key = KEYS["ed25519"]()
    body, headers = auth_request(key)
    with ReceiverProcess(tmp_path, "--pending") as server:
        assert call(server.url + AUTH, body, headers=headers)[0] == 401
        (device,) = server.request("GET", "/devices")
        assert device["status"] == "pending"

        server.request("PUT", f"/devices/{device['id']}/status", {"status": "accepted"})
        first = token_of(server, key)
        assert call(server.url + ALERT, [alert()], headers=first)[0] == 204

        server.request("DELETE", f"/devices/{device['id']}/tokens")
        assert call(server.url + ALERT, [alert()], headers=first)[0] == 401
        second = token_of(server, key)
        assert call(server.url + ALERT, [alert()], headers=second)[0] == 204

        server.request("PUT", f"/devices/{device['id']}/status", {"status": "rejected"})
        assert call(server.url + ALERT, [alert()], headers=second)[0] == 401
        assert len(server.alerts()) == 2


def test_an_expired_token_is_told_from_a_wrong_one(tmp_path: Path) -> None:
    """
    Expired: 403. Forged, or none at all: 401.
    """
    with ReceiverProcess(tmp_path, "--token-seconds", "-1") as server:
        headers = token_of(server, KEYS["ed25519"]())
        assert call(server.url + ALERT, [alert()], headers=headers)[0] == 403
        forged = {"Authorization": headers["Authorization"][:-2]}
        assert call(server.url + ALERT, [alert()], headers=forged)[0] == 401
        assert call(server.url + ALERT, [alert()], headers={"Authorization": "Bearer x"})[0] == 401
        assert call(server.url + ALERT, [alert()])[0] == 401


def test_a_fixed_token(tmp_path: Path) -> None:
    """
    With --token that one is accepted alone.
    """
    with ReceiverProcess(tmp_path, "--token", "sesame") as server:
        assert call(server.url + ALERT, [alert()], headers={"Authorization": "Bearer sesame"})[0] == 204
        assert call(server.url + ALERT, [alert()], headers={"Authorization": "Bearer sesam"})[0] == 401


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """
    With a database, alerts and tokens outlive the process; the oldest alerts make room.
    """
    database = tmp_path / "kept.db"
    with ReceiverProcess(tmp_path, "--database", str(database), "--max-alerts", "3") as server:
        headers = token_of(server, KEYS["ed25519"]())
        call(server.url + ALERT, [alert(name) for name in "abcd"], headers=headers)
        server.stop()
        server.start()
        assert call(server.url + ALERT, [alert("e")], headers=headers)[0] == 204
        assert [one["name"] for one in server.alerts()] == ["c", "d", "e"]


def test_status_faults(receiver: ReceiverProcess) -> None:
    """
    A status for the next two requests to one address, then all is well.
    """
    receiver.fault("status", to="alert", status=429, retry_after=7, requests=2)
    for _ in range(2):
        status, _, headers = call(receiver.url + ALERT, [alert()])
        assert (status, headers["Retry-After"]) == (429, "7")
        assert call(receiver.url + CONFIG, [])[0] == 204
    assert call(receiver.url + ALERT, [alert()])[0] == 204
    receiver.fault("status", status=403, error="operation requires addon: monitor")
    status, answer, _ = call(receiver.url + ALERT, [alert()])
    assert (status, answer["error"]) == (403, "operation requires addon: monitor")
    receiver.reset()
    assert call(receiver.url + ALERT, [alert()])[0] == 204


def test_dark_lost_and_refused(receiver: ReceiverProcess) -> None:
    """
    No answer: before or after the alert was kept, or because nobody listens. The switches stay in reach.
    """
    receiver.fault("dark", requests=1)
    with pytest.raises(OSError):
        call(receiver.url + ALERT, [alert("dark")])
    receiver.fault("lost", requests=1)
    with pytest.raises(OSError):
        call(receiver.url + ALERT, [alert("lost")])
    receiver.fault("refuse", seconds=600)
    with pytest.raises(OSError):
        call(receiver.url + ALERT, [alert("refused")])
    receiver.reset()
    while True:  # the port opens again in a moment
        try:
            call(receiver.url + ALERT, [alert("taken")])
            break
        except ConnectionRefusedError:
            continue
        except urllib.error.URLError as error:
            assert isinstance(error.reason, ConnectionRefusedError)
    assert [one["name"] for one in receiver.alerts()] == ["lost", "taken"]


def test_slow_and_hanging(receiver: ReceiverProcess) -> None:
    """
    An answer that is late, and one that never comes until the fault is reset.
    """
    receiver.fault("slow", seconds=0.1, requests=1)
    assert call(receiver.url + ALERT, [alert()])[0] == 204
    receiver.fault("hang", requests=1)
    connection = http.client.HTTPConnection(receiver.url.removeprefix("http://"), timeout=30)
    connection.request("POST", ALERT, json.dumps([alert()]))
    while receiver.request("GET", "/faults") is not None:  # until it was taken
        continue
    receiver.reset()
    with pytest.raises(OSError):
        connection.getresponse()
    connection.close()
    assert len(receiver.alerts()) == 1


@pytest.mark.parametrize(
    "fault", [{}, {"kind": "x"}, {"kind": "status", "status": 200}, {"kind": "slow", "seconds": -1}, []]
)
def test_a_wrong_fault_is_refused(receiver: ReceiverProcess, fault: object) -> None:
    """
    A mistake in a test is told, and sets nothing.
    """
    status, answer, _ = call(receiver.url + "/faults", fault)
    assert status == 400
    assert answer["error"]
    assert receiver.request("GET", "/faults") is None


def test_the_page_shows_text_as_text(receiver: ReceiverProcess) -> None:
    """
    A device's words never become HTML, and what is invisible is shown as an escape.
    """
    evil = "<script>alert(1)</script>\"'&\x1b[2J"
    sent = alert(evil, description=evil, line_matching={"line_number": 1, "data": evil})
    sent["subject"].update(name=evil, type=evil, status=evil)
    call(receiver.url + ALERT, [sent])
    for path in ("/", "/alerts/1"):
        status, page, headers = call(receiver.url + path, method="GET")
        assert status == 200
        assert "<script" not in page
        assert "\x1b" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;\\x1b[2J" in page
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert call(receiver.url + "/alerts/2", method="GET")[0] == 404
    assert "\x1b" not in receiver.line(30)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_file, key_file


def test_tls_with_and_without_client_certificate(tmp_path: Path) -> None:
    """
    HTTPS, and with --client-ca nobody gets in without a certificate.
    """
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(cert))
    options = ("--open", "--cert", str(cert), "--key", str(key))
    with ReceiverProcess(tmp_path, *options) as server:
        assert server.url.startswith("https://")
        assert call(server.url + ALERT, [alert()], context=context)[0] == 204
    with ReceiverProcess(tmp_path, *options, "--client-ca", str(cert)) as server:
        with pytest.raises(OSError):
            call(server.url + ALERT, [alert()], context=context)
        context.load_cert_chain(cert, key)
        assert call(server.url + ALERT, [alert()], context=context)[0] == 204


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cert", "x"], "belong together"),
        (["--port", "0", "--cert", "/nowhere", "--key", "/nowhere"], "No such file"),
        (["--port", "0", "--max-alerts", "0"], "max-alerts"),
        (["--port", "0", "--database", "/nowhere/x"], "unable to open"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(options: list[str], reason: str) -> None:
    """
    No traceback for a user's mistake.
    """
    ended = subprocess.run([sys.executable, "-c", MAIN, *options], cwd=SOURCE, capture_output=True, text=True)
    assert ended.returncode
    assert reason in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


NEXT = "/api/devices/v2/deployments/device/deployments/next"
OF_DEVICE = "/api/devices/v1/deployments/device/deployments"


@pytest.fixture
def deploying(tmp_path: Path):
    """A receiver with one artifact."""
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    (artifacts / "release-2.mender").write_bytes(b"an artifact" * 1000)
    (tmp_path / "secret").write_text("secret")
    with ReceiverProcess(tmp_path, "--open", "--artifacts", str(artifacts)) as process:
        yield process


def deploy(receiver: ReceiverProcess) -> str:
    wanted = {"artifact": "release-2.mender", "name": "release-2", "device_types": ["test"]}
    answer = receiver.request("POST", "/deployments", wanted)
    return str(answer["id"])


def test_a_deployment_from_offer_to_log(deploying) -> None:
    """As an update client goes through it: asked for, downloaded, reported, its log sent."""
    assert call(deploying.url + NEXT, {})[0] == 204
    deployment = deploy(deploying)
    for method, path, body in (("POST", NEXT, {}), ("GET", f"{OF_DEVICE}/next?artifact_name=x", None)):
        status, offer, _ = call(deploying.url + path, body, method=method)
        assert (status, offer["id"]) == (200, deployment)
    assert offer["artifact"]["artifact_name"] == "release-2"
    assert offer["artifact"]["device_types_compatible"] == ["test"]
    with urllib.request.urlopen(offer["artifact"]["source"]["uri"], timeout=30) as answer:
        assert answer.read() == b"an artifact" * 1000
    one = f"{deploying.url}{OF_DEVICE}/{deployment}"
    for state in ("downloading", "installing", "failure"):
        assert call(f"{one}/status", {"status": state}, method="PUT")[0] == 204
    messages = [{"timestamp": "2026-01-31T12:00:00Z", "level": "error", "message": "no space"}]
    assert call(f"{one}/log", {"messages": messages}, method="PUT")[0] == 204
    assert call(deploying.url + NEXT, {})[0] == 204
    (listed,) = deploying.request("GET", "/deployments")
    assert listed["statuses"] == ["downloading", "installing", "failure"]
    assert listed["log"] == messages


def test_a_deployment_that_is_aborted(deploying) -> None:
    deployment = deploy(deploying)
    assert call(deploying.url + NEXT, {})[0] == 200
    deploying.request("DELETE", f"/deployments/{deployment}")
    status = call(f"{deploying.url}{OF_DEVICE}/{deployment}/status", {"status": "installing"}, method="PUT")[
        0
    ]
    assert status == 409
    assert call(deploying.url + NEXT, {})[0] == 204


@pytest.mark.parametrize("path", ["../secret", "..%2fsecret", "%2e%2e%2fsecret", "absent", "."])
def test_only_artifacts_are_served(deploying, path) -> None:
    assert call(f"{deploying.url}/artifacts/{path}", method="GET")[0] == 404
    with pytest.raises(AssertionError, match="404"):
        deploying.request("POST", "/deployments", {"artifact": path, "name": "x"})


def test_a_download_that_fails(deploying) -> None:
    deploying.fault("status", to="artifact", status=503, requests=1)
    address = f"{deploying.url}/artifacts/release-2.mender"
    assert call(address, method="GET")[0] == 503
    assert call(address, method="GET")[0] == 200


@pytest.mark.parametrize("value", [[], {"artifact": "release-2.mender"}, {"name": "x"}, {"nonsense": 1}])
def test_what_is_no_deployment(deploying, value) -> None:
    with pytest.raises(AssertionError, match="400"):
        deploying.request("POST", "/deployments", value)
