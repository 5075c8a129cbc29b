"""The update client's mender.conf: two JSON files, merged as that client does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MenderConf:
    """What is needed of it here. Certificates and keys are paths here; *warnings* are for the log."""

    servers: tuple[str, ...] = ()
    server_certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""
    tenant_token: str = field(default="", repr=False)
    update_log_path: str = ""
    warnings: tuple[str, ...] = ()


def parse(main: str | None, fallback: str | None) -> MenderConf:
    """
    The values of ``/etc/mender/mender.conf`` over those of ``/var/lib/mender/mender.conf`` (None: no file).

    Keys are case-insensitive; ``HttpsClient`` is merged key by key; values of a wrong type are skipped.
    ``Servers`` and ``ServerURL`` together are an error of the file that brings the second one.
    """
    warnings: list[str] = []
    merged: dict[str, Any] = {}
    for name, text in (("the fallback mender.conf", fallback), ("mender.conf", main)):
        if text is not None:
            _merge(merged, _load(text, name, warnings), name, warnings)
    https = merged.get("httpsclient", {})
    if _truth(merged.get("skipverify")):
        warnings.append("SkipVerify is not followed: the server's certificate is always verified")
    certificate, key = _text(https, "certificate"), _text(https, "key")
    if bool(certificate) != bool(key):
        warnings.append("HttpsClient needs both Certificate and Key: neither is used")
        certificate = key = ""
    return MenderConf(
        servers=_servers(merged),
        server_certificate=_text(merged, "servercertificate"),
        client_certificate=certificate,
        client_key=key,
        tenant_token=_text(merged, "tenanttoken"),
        update_log_path=_text(merged, "updatelogpath"),
        warnings=tuple(warnings),
    )


def _load(text: str, name: str, warnings: list[str]) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        warnings.append(f"{name} is not JSON: {error}")
        return {}
    if not isinstance(values, dict):
        warnings.append(f"{name} is not a JSON object")
        return {}
    return _lowered(values)


def _merge(merged: dict[str, Any], values: dict[str, Any], name: str, warnings: list[str]) -> None:
    both = {**merged, **values}
    if both.get("servers") and both.get("serverurl"):
        warnings.append(f"{name} has Servers where ServerURL is set too: only one of them may be; not read")
        return
    for key, value in values.items():
        if key == "httpsclient":
            if isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **_lowered(value)}
        else:
            merged[key] = value


def _servers(values: Mapping[str, Any]) -> tuple[str, ...]:
    listed = values.get("servers")
    entries = listed if isinstance(listed, list) else []
    found = [_text(_lowered(entry), "serverurl") for entry in entries if isinstance(entry, dict)]
    return tuple(url.rstrip("/") for url in (*found, _text(values, "serverurl")) if url)


def _lowered(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in values.items()}


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value.strip() if isinstance(value, str) else ""


def _truth(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")
