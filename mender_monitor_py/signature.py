"""
Ed25519 signatures of lists: detached, 64 bytes as they are, over the bytes of the list.

The same that openssl makes: ``openssl pkeyutl -sign -rawin -inkey private.pem -in LIST -out LIST.sig``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)


class Keys:
    """
    Public keys by the name of their file. *problems* names those that are none, with the reason.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._keys: dict[str, Ed25519PublicKey] = {}
        self.problems: dict[str, str] = {}
        for name, data in files.items():
            try:
                self._keys[name] = public_key(data)
            except ValueError as error:
                self.problems[name] = str(error)

    def signer(self, signature: bytes, data: bytes) -> str:
        """The name of the key that *signature* of *data* was made with; empty: none of them."""
        for name, key in self._keys.items():
            try:
                key.verify(signature, data)
            except InvalidSignature:
                continue
            return name
        return ""


def public_key(pem: bytes) -> Ed25519PublicKey:
    """Raises ValueError with a reason."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("it is no Ed25519 key")
    return key


def sign(pem: bytes, data: bytes, password: Callable[[], str]) -> bytes:
    """
    The signature of *data* with the private key *pem*; *password* is asked when that is encrypted.

    Raises ValueError with a reason.
    """
    try:
        try:
            key = load_pem_private_key(pem, None)
        except TypeError:  # "if the PEM data was encrypted"
            key = load_pem_private_key(pem, password().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no private key in PEM, or the password is wrong") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is no Ed25519 key")
    return key.sign(data)


def new_pair() -> tuple[bytes, bytes]:
    """A new private key and its public key, both as openssl writes them."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
