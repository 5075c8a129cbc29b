"""What the sender process is told: read by the watcher, which may read it."""

from __future__ import annotations

import os
from pathlib import Path

from mender_monitor_py import identity, menderconf
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.paths import Paths
from mender_monitor_py.protocol import NotSent, Setup
from mender_monitor_py.settings import Settings

_MAX_FILE = 256 * 1024
_IDENTITY_TIMEOUT = 10.0
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


async def load(paths: Paths, settings: Settings) -> tuple[Setup, list[str]]:
    """
    The setup as mender.conf, the settings and the environment have it now, and warnings about it.

    Raises NotSent when nothing can be sent with it.
    """
    warnings: list[str] = []
    conf = menderconf.parse(
        _optional(paths.mender_conf, warnings), _optional(paths.mender_fallback_conf, warnings)
    )
    warnings += conf.warnings
    server_certificate = ""
    if conf.server_certificate:
        server_certificate = _optional(Path(conf.server_certificate), warnings, wanted=True) or ""
    client_certificate, client_key = _client_pair(conf, warnings)
    key = id_data = ""
    if settings.device_key:
        key = _required(Path(settings.device_key), "the device key")
        id_data = await _identity(settings.device_identity, paths.runner_socket)
    setup = Setup(
        alert_url=settings.alert_url,
        servers=conf.servers,
        server_certificate=server_certificate,
        client_certificate=client_certificate,
        client_key=client_key,
        tenant_token=conf.tenant_token if key else "",
        device_key=key,
        id_data=id_data,
        proxies=_proxies(),
    )
    return setup, warnings


def _client_pair(conf: menderconf.MenderConf, warnings: list[str]) -> tuple[str, str]:
    if not conf.client_certificate:
        return "", ""
    if conf.client_key.startswith("pkcs11:"):
        # Only an older client, or the own-key mode, leaves the TLS to us.
        warnings.append("HttpsClient.Key is in a security module: only the update client can use it")
        return "", ""
    certificate = _optional(Path(conf.client_certificate), warnings, wanted=True)
    key = _optional(Path(conf.client_key), warnings, wanted=True)
    return (certificate, key) if certificate and key else ("", "")


def _proxies() -> dict[str, str]:
    found = {name: os.environ.get(name) or os.environ.get(name.upper(), "") for name in _PROXIES}
    return {name: value for name, value in found.items() if value}


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_MAX_FILE)


def _optional(path: Path, warnings: list[str], *, wanted: bool = False) -> str | None:
    try:
        return _read(path)
    except FileNotFoundError as error:
        if wanted:
            warnings.append(f"{path} is not read: {error.strerror}")
    except OSError as error:
        warnings.append(f"{path} is not read: {error.strerror}")
    return None


def _required(path: Path, what: str) -> str:
    try:
        return _read(path)
    except OSError as error:
        raise NotSent(f"{what} {path} cannot be read: {error.strerror}", "setup") from error


async def _identity(program: str, runner_socket: Path) -> str:
    """What the identity script says, as the server wants it. It sees the device as root does."""
    from mender_monitor_py.host.runner import Runner

    runner = Runner(runner_socket)
    try:
        done = await runner.run([program], timeout=_IDENTITY_TIMEOUT, limit=_MAX_FILE, errors=False)
    except UnknownError as error:
        raise NotSent(f"the identity script {program} cannot be run: {error}", "setup") from error
    finally:
        await runner.aclose()
    match done.status:
        case 0:
            pass
        case None:
            raise NotSent(f"the identity script {program} takes too long or prints too much", "setup")
        case 127:
            raise NotSent(f"the identity script {program} is not there or cannot be run", "setup")
        case status:
            raise NotSent(f"the identity script {program} failed with {status}", "setup")
    try:
        return identity.id_data(done.output.decode(errors="replace"))
    except ValueError as error:
        raise NotSent(f"{program}: {error}", "setup") from error
