"""The token without the update client: authentication requests signed with the device's own key."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mender_monitor_py.credentials import Grant
from mender_monitor_py.protocol import NotSent, Setup, printable

if TYPE_CHECKING:
    from mender_monitor_py.transport import Http

AUTH_PATH = "/api/devices/v1/authentication/auth_requests"

_EARLY = 60.0  # seconds before its end at which a token is not used any more

PrivateKey = rsa.RSAPrivateKey | Ed25519PrivateKey | ec.EllipticCurvePrivateKey


class DeviceKey:
    """Credentials of the device's own. The token is kept in memory only."""

    def __init__(self, setup: Setup, http: Http) -> None:
        self._setup = setup
        self._http = http
        self._token = ""
        self._server = 0  # the one that answered last
        self._tried = 1

    def current(self) -> Grant:
        self._tried = 1
        if self._token and not is_over(self._token, time.time()):
            return Grant(self._token, self._setup.servers[self._server])
        return self.renewed()

    def renewed(self) -> Grant:
        self._token = ""
        key = load_key(self._setup.device_key)
        body = request_body(self._setup, key)
        headers = {
            "Content-Type": "application/json",
            "X-MEN-Signature": base64.b64encode(sign(key, body)).decode(),
        }
        if not self._setup.servers:
            raise NotSent("no server is known: set ServerURL in mender.conf", "setup")
        for _ in self._setup.servers:
            server = self._setup.servers[self._server]
            try:
                answer = self._http.post(server + AUTH_PATH, headers, body)
            except NotSent as error:
                if error.wait == "setup":
                    raise
                self._next_server()
                failure = error
                continue
            if answer.status == 200 and _is_token(answer.body.strip()):
                self._token = answer.body.strip()
                return Grant(self._token, server)
            raise NotSent(_refusal(answer.status, answer.body), "token")
        raise failure

    def moved(self, failed: Grant) -> Grant | None:
        """The next of the servers."""
        if self._tried >= len(self._setup.servers):
            return None
        self._tried += 1
        self._next_server()
        return Grant(failed.token, self._setup.servers[self._server])

    def close(self) -> None:
        self._token = ""

    def _next_server(self) -> None:
        self._server = (self._server + 1) % len(self._setup.servers)


def load_key(pem: str) -> PrivateKey:
    """The private key in *pem*: RSA, Ed25519 or ECDSA P-256, without passphrase. Raises NotSent."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise NotSent("the device key has a passphrase, which is not supported", "setup") from None
    except (ValueError, UnsupportedAlgorithm):
        raise NotSent("the device key is not a private key in PEM form", "setup") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, ec.SECP256R1):
        raise NotSent(
            "the device key is on another curve than P-256, which the server does not take", "setup"
        )
    if isinstance(key, PrivateKey):
        return key
    raise NotSent("the device key is neither RSA, Ed25519 nor ECDSA", "setup")


def request_body(setup: Setup, key: PrivateKey) -> bytes:
    """The exact bytes of an authentication request, which are signed."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    fields = {"id_data": setup.id_data, "pubkey": public.decode()}
    if setup.tenant_token:
        fields["tenant_token"] = setup.tenant_token
    return json.dumps(fields).encode()


def sign(key: PrivateKey, body: bytes) -> bytes:
    """The signature as the server checks it: SHA-256 first, except with Ed25519."""
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(body)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(body, ec.ECDSA(hashes.SHA256()))


def is_over(token: str, now: float) -> bool:
    """Whether *token*, a JWT, has expired or is about to. Not known: no; the server will say so."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - _EARLY <= now
    except (IndexError, KeyError, TypeError, ValueError):
        return False


def _is_token(text: str) -> bool:
    return 0 < len(text) <= 65_536 and text.isascii() and text.isprintable() and " " not in text


def _refusal(status: int, body: str) -> str:
    if status == 401:
        return "the server has not accepted the device (yet): accept it there"
    return f"the server refused the authentication request: {status} {printable(body)}"
