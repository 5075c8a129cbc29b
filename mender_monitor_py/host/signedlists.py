"""The files around signed lists: public keys, signatures, and the copies of what was trusted last."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.durable import replace_file
from mender_monitor_py.host.lists import read_list
from mender_monitor_py.paths import Paths

log = logging.getLogger(__name__)

SIGNATURE = 64  # bytes of an Ed25519 signature, see RFC 8032
_MAX_KEY = 16 * 1024


class Copy(NamedTuple):
    """A list with the signature that it was trusted for."""

    signature: bytes
    data: bytes


def read_keys(paths: Paths) -> dict[str, bytes]:
    """
    The public keys of trusted.d by file name; empty for one that cannot be used. Raises UnknownError.

    A key that others can write is none, but it is there: the lists do not go back to being unsigned.
    """
    try:
        names = sorted(path.name for path in paths.trusted_d.iterdir() if path.suffix == ".pem")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UnknownError(f"{paths.trusted_d} cannot be read: {error.strerror}") from error
    return {name: _usable(paths.trusted_d / name)[:_MAX_KEY] for name in names}


def read_signature(list_path: Path) -> bytes:
    """The signature beside a list; empty: there is none that can be used."""
    found = _usable(signature_path(list_path))
    return found if len(found) == SIGNATURE else b""


def signature_path(list_path: Path) -> Path:
    return list_path.with_name(f"{list_path.name}.sig")


def read_copy(paths: Paths, name: str) -> Copy | None:
    """The list *name* as it was trusted last. Raises UnknownError when it cannot be read."""
    data = read_list(_copy_path(paths, name))
    return Copy(data[:SIGNATURE], data[SIGNATURE:]) if data and len(data) > SIGNATURE else None


def write_copy(paths: Paths, name: str, copy: Copy) -> None:
    """Keep the list *name* as trusted. One file, so that no power cut can part the two. Raises OSError."""
    paths.trusted.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(_copy_path(paths, name), copy.signature + copy.data)


def _usable(path: Path) -> bytes:
    try:
        return read_list(path) or b""
    except UnknownError as error:
        log.warning("%s", error)
        return b""


def _copy_path(paths: Paths, name: str) -> Path:
    return paths.trusted / f"{name}.signed"
