"""Authentication requests and tokens, as the server's device authentication does them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mender_monitor_py.receiver.validation import InvalidError

_FIELDS = frozenset({"id_data", "pubkey", "tenant_token", "tier"})
_PEM_HEAD = "-----BEGIN PUBLIC KEY-----"


class ForgedError(Exception):
    """A signature or a token is not what it claims to be."""


@dataclass(frozen=True)
class AuthRequest:
    """A request whose signature is right: the device's *id* follows from its identity and key."""

    id: str
    identity: str


@dataclass(frozen=True)
class Claims:
    """What a token says: the device, its generation, and until when, in seconds since the epoch."""

    device: str
    generation: int
    expires: float


def auth_request(body: bytes, value: object, signature: str) -> AuthRequest:
    """
    The request in *value*, the JSON of *body*, signed by *signature* (the header X-MEN-Signature).

    Raises InvalidError for a request that is none, ForgedError for a wrong signature.
    """
    if not isinstance(value, Mapping):
        raise InvalidError("the body must be an object")
    for name, content in value.items():
        if name not in _FIELDS:
            raise InvalidError(f"unknown field {json.dumps(name[:80])}")
        if not isinstance(content, str):
            raise InvalidError(f"{name} must be a string")
    identity = _identity(value.get("id_data", ""))
    pem = value.get("pubkey", "").strip()
    if not pem.startswith(_PEM_HEAD):
        raise InvalidError("pubkey must be a PEM block of type PUBLIC KEY")
    if not signature:
        raise InvalidError("the header X-MEN-Signature is missing")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidError("pubkey cannot be read") from error
    _verify(key, signature, body)
    name = hashlib.sha256(f"{identity}\n{pem}".encode()).digest()
    return AuthRequest(str(uuid.UUID(bytes=name[:16], version=4)), identity)


def token(secret: bytes, claims: Claims, now: float) -> str:
    """A token in the form of the server's: a JWT (RFC 7519), here signed with a key of the receiver's own."""
    payload = {
        "jti": claims.device,
        "sub": claims.device,
        "iss": "Mender",
        "iat": int(now),
        "exp": int(claims.expires),
        "mender.device": True,
        "mender.plan": "enterprise",
        "mender.trial": False,
        "mender.addons": [{"name": "monitor", "enabled": True}],
        "generation": claims.generation,
    }
    signed = ".".join(
        _encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, payload)
    )
    return f"{signed}.{_encode(_mac(secret, signed))}"


def claims(secret: bytes, text: str) -> Claims:
    """What the token *text* says. Raises ForgedError when it was not made with *secret*."""
    signed, _, mac = text.rpartition(".")
    if not hmac.compare_digest(_encode(_mac(secret, signed)).encode(), mac.encode()):
        raise ForgedError("the token is not one of ours")
    payload: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
    return Claims(payload["sub"], payload["generation"], payload["exp"])


def _identity(text: str) -> str:
    """The identity data with its keys sorted, which makes equal what is the same device."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidError("id_data must be a string that holds a JSON object") from error
    if not (isinstance(value, dict) and value):
        raise InvalidError("id_data must be a string that holds a JSON object with something in it")
    return json.dumps(value, sort_keys=True)


def _verify(key: object, signature: str, body: bytes) -> None:
    try:
        raw = base64.b64decode(signature, validate=True)
        match key:
            case rsa.RSAPublicKey():
                key.verify(raw, body, padding.PKCS1v15(), SHA256())
            case ed25519.Ed25519PublicKey():
                key.verify(raw, body)
            case ec.EllipticCurvePublicKey():
                key.verify(raw, body, ec.ECDSA(SHA256()))
            case _:
                raise InvalidError("pubkey must be RSA, Ed25519 or ECDSA")
    except (InvalidSignature, ValueError) as error:
        raise ForgedError("the signature does not fit the key and the body") from error


def _mac(secret: bytes, text: str) -> bytes:
    return hmac.digest(secret, text.encode(errors="replace"), "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
