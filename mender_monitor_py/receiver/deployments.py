"""
Deployments, as an update client beside the monitor asks for them: offered, followed, aborted.

Kept in memory: they are for demos and tests, which begin with none.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from mender_monitor_py.receiver import validation
from mender_monitor_py.receiver.validation import InvalidError

PENDING, ABORTED = "pending", "aborted"
# What ends a deployment: the server's model of a device deployment.
FINAL = ("success", "failure", "already-installed", ABORTED)
MOST = 100
MAX_LINES = 2000
_EXPIRE_S = 3600.0


@dataclass
class Deployment:
    """One of the file *artifact*, which holds *name*, to the device that asks first or is named."""

    id: str
    artifact: str
    name: str
    device_types: list[str]
    device: str = ""
    status: str = PENDING
    statuses: list[str] = field(default_factory=list)
    log: list[Any] = field(default_factory=list)


class Deployments:
    """
    The requests of the update client, and the switches of a person.

    *artifacts* is the folder of the files (None: there are none); *device* tells whose a request is.
    """

    def __init__(self, artifacts: Path | None, device: Callable[[web.Request], str]) -> None:
        self._artifacts = artifacts
        self._device = device
        self._all: dict[str, Deployment] = {}

    def routes(self) -> list[web.RouteDef]:
        """For the application."""
        asked = "deployments/device/deployments"
        one = f"/api/devices/v1/{asked}/{{deployment}}"
        return [
            web.post(f"/api/devices/v2/{asked}/next", self._next),
            web.get(f"/api/devices/v1/{asked}/next", self._next),
            web.put(f"{one}/status", self._take_status),
            web.put(f"{one}/log", self._take_log),
            web.get("/artifacts/{artifact}", self._download),
            web.get("/deployments", self._list),
            web.post("/deployments", self._add),
            web.delete("/deployments/{deployment}", self._abort),
        ]

    # The device API

    async def _next(self, request: web.Request) -> web.Response:
        device = self._device(request)
        for one in self._all.values():
            if one.status not in FINAL and one.device in ("", device):
                one.device = device
                return web.json_response(_offer(one, str(request.url.origin())))
        return web.Response(status=204)

    async def _take_status(self, request: web.Request) -> web.Response:
        one = self._of(request)
        value = validation.decode(await request.read())
        status = value.get("status") if isinstance(value, dict) else None
        if not isinstance(status, str):
            raise InvalidError("status must be a text")
        if one.status == ABORTED:
            raise web.HTTPConflict(reason="the deployment was aborted")
        one.status = status[:64]
        one.statuses = [*one.statuses, one.status][-MOST:]
        return web.Response(status=204)

    async def _take_log(self, request: web.Request) -> web.Response:
        one = self._of(request)
        value = validation.decode(await request.read())
        messages = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(messages, list):
            raise InvalidError("messages must be a list")
        one.log = messages[-MAX_LINES:]
        return web.Response(status=204)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        # Anybody may, as with the server's signed addresses.
        return web.FileResponse(self._file(request.match_info["artifact"]))

    def _of(self, request: web.Request) -> Deployment:
        device = self._device(request)
        one = self._all.get(request.match_info["deployment"])
        if one is None or one.device != device:
            raise web.HTTPNotFound(reason="no such deployment of this device")
        return one

    # The switches

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(one) for one in self._all.values()])

    async def _add(self, request: web.Request) -> web.Response:
        value = validation.decode(await request.read())
        if not isinstance(value, dict):
            raise InvalidError("a deployment is a JSON object")
        unknown = sorted(set(value) - {"artifact", "name", "device_types", "device"})
        if unknown:
            raise InvalidError(f"a deployment has no field {unknown[0]!r}")
        artifact, name, device = (value.get(key, "") for key in ("artifact", "name", "device"))
        types = value.get("device_types", [])
        if not all(isinstance(text, str) for text in (artifact, name, device)) or not artifact or not name:
            raise InvalidError("artifact, the file's name, and name, the artifact's, are needed")
        if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
            raise InvalidError("device_types must be a list of texts")
        self._file(artifact)
        over = [key for key, one in self._all.items() if one.status in FINAL]
        for key in over[: max(len(self._all) + 1 - MOST, 0)]:
            del self._all[key]
        if len(self._all) >= MOST:
            raise InvalidError(f"more than {MOST} deployments wait")
        one = Deployment(str(uuid.uuid4()), artifact, name, types, device)
        self._all[one.id] = one
        return web.json_response({"id": one.id}, status=201)

    async def _abort(self, request: web.Request) -> web.Response:
        one = self._all.get(request.match_info["deployment"])
        if one is None:
            raise web.HTTPNotFound(reason="no such deployment")
        if one.status not in FINAL:
            one.status = ABORTED
        return web.Response(status=204)

    def _file(self, name: str) -> Path:
        """The file *name* of the folder; nothing outside of it."""
        if self._artifacts is None or "/" in name or name.startswith("."):
            raise web.HTTPNotFound(reason="no such artifact: see --artifacts")
        found = self._artifacts / name
        if not found.is_file():
            raise web.HTTPNotFound(reason="no such artifact")
        return found


def _offer(one: Deployment, origin: str) -> dict[str, Any]:
    """The server's answer to the question for a deployment."""
    source = {
        "uri": f"{origin}/artifacts/{one.artifact}",
        "expire": validation.rfc3339(time.time() + _EXPIRE_S),
    }
    artifact = {
        "id": one.id,
        "artifact_name": one.name,
        "source": source,
        "device_types_compatible": one.device_types,
    }
    return {"id": one.id, "artifact": artifact}
