"""The HTTP side of the receiver: the device API, the management API, its own switches and its page."""

from __future__ import annotations

import hmac
import json
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from mender_monitor_py.receiver import auth, page, validation
from mender_monitor_py.receiver.auth import Claims, ForgedError
from mender_monitor_py.receiver.deployments import Deployments
from mender_monitor_py.receiver.faults import DARK, HANG, LOST, REFUSE, SLOW, Fault, Faults
from mender_monitor_py.receiver.store import Received, Store
from mender_monitor_py.receiver.validation import InvalidError

MAX_BODY = 1024 * 1024
ACCEPTED, PENDING, REJECTED = "accepted", "pending", "rejected"
ANONYMOUS = "device"
MAX_PER_PAGE = 500

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Options:
    """
    How the receiver judges devices.

    *token*: the only one accepted, as of one device; empty: the ones it gave out. *open_to_all*: none is
    asked for. *token_seconds* is how long a token is good for. *artifacts* is the folder of what can be
    deployed.
    """

    token: str = ""
    open_to_all: bool = False
    pending: bool = False
    token_seconds: float = 604_800
    limits: validation.Limits = field(default_factory=validation.Limits)
    artifacts: Path | None = None


class Api:
    """
    The requests, from the validated body to the answer.

    *told* hears of every alert that is kept; *refuse* is to close the port while a ``refuse`` fault is on.
    """

    def __init__(self, store: Store, options: Options, told: Callable[[Received], None]) -> None:
        self.faults = Faults()
        self._store = store
        self._options = options
        self._told = told
        self._secret = store.secret("tokens", secrets.token_bytes(32))
        self.refuse: Callable[[], None] = lambda: None

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._fault, self._errors], client_max_size=MAX_BODY)
        devices, monitor = "/api/devices/v1", "/api/management/v1/devicemonitor/devices/{device}"
        application.add_routes(
            [
                web.post(f"{devices}/authentication/auth_requests", self._authenticate),
                web.post(f"{devices}/devicemonitor/alert", self._take_alerts),
                web.post(f"{devices}/devicemonitor/config", self._take_config),
                # An update client beside the monitor sends this; nobody looks at it.
                web.route("*", f"{devices}/inventory/device/attributes", self._take_inventory),
                *Deployments(self._options.artifacts, self._device).routes(),
                web.get(f"{monitor}/alerts", self._alerts),
                web.get(f"{monitor}/alerts/latest", self._latest),
                web.get(f"{monitor}/config", self._config),
                web.get("/api/management/v1/inventory/devices/{device}", self._inventory),
                web.get("/devices", self._devices),
                web.put("/devices/{device}/status", self._set_status),
                web.delete("/devices/{device}/tokens", self._revoke),
                web.get("/faults", self._get_fault),
                web.post("/faults", self._set_fault),
                web.delete("/faults", self._reset_faults),
                web.get("/", self._page),
                web.get("/alerts/{seq:[0-9]{1,18}}", self._alert_page),
            ]
        )
        return application

    # The device API

    async def _authenticate(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise InvalidError("the content type must be application/json")
        body = await request.read()
        asked = auth.auth_request(body, validation.decode(body), request.headers.get("X-MEN-Signature", ""))
        device = self._store.device(asked.id)
        if device is None:
            # In pending mode an unknown device is recorded and refused, as the server does.
            status = PENDING if self._options.pending else ACCEPTED
            if not self._store.add_device(asked.id, asked.identity, status):
                return _error(401, "device limit reached")
            device = self._store.device(asked.id)
        if device is None or device.status != ACCEPTED:
            return _error(401, "dev auth: unauthorized")
        now = time.time()
        held = Claims(device.id, device.generation, now + self._options.token_seconds)
        return web.Response(text=auth.token(self._secret, held, now), content_type="application/jwt")

    async def _take_alerts(self, request: web.Request) -> web.Response:
        device = self._device(request)
        alerts = validation.alerts(validation.decode(await request.read()), self._options.limits)
        for received in self._store.add_alerts(device, alerts, time.time()):
            self._told(received)
        return web.Response(status=204)

    async def _take_config(self, request: web.Request) -> web.Response:
        device = self._device(request)
        configs = validation.configs(validation.decode(await request.read()), self._options.limits)
        self._store.set_config(device, configs, time.time())
        return web.Response(status=204)

    async def _take_inventory(self, request: web.Request) -> web.Response:
        device = self._device(request)
        sent = validation.attributes(validation.decode(await request.read()))
        kept = self._store.inventory(device) if request.method == "PATCH" else {}
        self._store.set_inventory(device, {**kept, **sent})
        return web.Response(status=200)

    def _device(self, request: web.Request) -> str:
        """The device that a request is of. Raises the answer to one that may not."""
        if self._options.open_to_all:
            return ANONYMOUS
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not text:
            raise _Refused(401, "Authorization not present in header")
        if self._options.token:
            if not hmac.compare_digest(text.encode(errors="replace"), self._options.token.encode()):
                raise _Refused(401, "unauthorized")
            return ANONYMOUS
        try:
            claims = auth.claims(self._secret, text)
        except ForgedError as error:
            raise _Refused(401, str(error)) from error
        device = self._store.device(claims.device)
        if device is None or device.status != ACCEPTED or device.generation != claims.generation:
            raise _Refused(401, "the token was revoked")
        if claims.expires <= time.time():
            raise _Refused(403, "jwt: token expired")
        return device.id

    # The management API

    async def _alerts(self, request: web.Request) -> web.Response:
        alerts, count = self._store.alerts(
            request.match_info["device"],
            after=_moment(request, "issued_after"),
            before=_moment(request, "issued_before"),
            ascending=_flag(request, "sort_ascending"),
            page=_number(request, "page", 1, 10**9),
            per_page=_number(request, "per_page", 20, MAX_PER_PAGE),
        )
        return _listed(alerts, count)

    async def _latest(self, request: web.Request) -> web.Response:
        alerts = self._store.latest(request.match_info["device"])
        least = request.query.get("level_from", "")
        if least:
            if least not in validation.LEVELS:
                raise InvalidError(f"level_from must be one of {', '.join(validation.LEVELS)}")
            alerts = [one for one in alerts if _severity(one.alert.level) >= _severity(least)]
        first, per_page = _number(request, "page", 1, 10**9), _number(request, "per_page", 20, MAX_PER_PAGE)
        start = (first - 1) * per_page
        return _listed(alerts[start : start + per_page], len(alerts))

    async def _config(self, request: web.Request) -> web.Response:
        config = self._store.config(request.match_info["device"])
        return _error(404, "no configuration of this device") if config is None else web.json_response(config)

    async def _inventory(self, request: web.Request) -> web.Response:
        device = request.match_info["device"]
        count = self._store.alert_count(device)
        sent = self._store.inventory(device)
        attributes = [
            *({"name": name, "scope": "inventory", "value": value} for name, value in sent.items()),
            {"name": "alert_count", "scope": "monitor", "value": count},
            {"name": "alerts", "scope": "monitor", "value": count > 0},
        ]
        return web.json_response({"id": device, "attributes": attributes})

    # The receiver's own switches

    async def _devices(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(device) for device in self._store.devices()])

    async def _set_status(self, request: web.Request) -> web.Response:
        value = validation.decode(await request.read())
        status = value.get("status") if isinstance(value, dict) else None
        if status not in (ACCEPTED, PENDING, REJECTED):
            raise InvalidError(f"status must be one of {ACCEPTED}, {PENDING}, {REJECTED}")
        found = self._store.set_status(request.match_info["device"], status)
        return web.Response(status=204) if found else _error(404, "no such device")

    async def _revoke(self, request: web.Request) -> web.Response:
        found = self._store.revoke(request.match_info["device"])
        return web.Response(status=204) if found else _error(404, "no such device")

    async def _get_fault(self, request: web.Request) -> web.Response:
        fault = self.faults.current
        return web.json_response(None if fault is None else asdict(fault))

    async def _set_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault.from_json(validation.decode(await request.read()))
        except ValueError as error:
            raise InvalidError(str(error)) from error
        self.faults.set(fault)
        if fault.kind == REFUSE:
            self.refuse()
        return web.Response(status=204)

    async def _reset_faults(self, request: web.Request) -> web.Response:
        self.faults.reset()
        return web.Response(status=204)

    # The page

    async def _page(self, request: web.Request) -> web.Response:
        number = _number(request, "page", 1, 10**9)
        history, count = self._store.alerts(page=number, per_page=page.PER_PAGE)
        return _html(page.overview(self._store.latest(), history, count, number, time.time()))

    async def _alert_page(self, request: web.Request) -> web.Response:
        found = self._store.alert(int(request.match_info["seq"]))
        if found is None:
            raise web.HTTPNotFound(text="there is no such alert (any more)")
        return _html(page.single(found))

    # Around every request

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error as the server answers it: a JSON object with the reason."""
        try:
            return await handler(request)
        except InvalidError as error:
            return _error(400, str(error))
        except ForgedError as error:
            return _error(401, str(error))
        except _Refused as error:
            return _error(error.status, str(error))
        except web.HTTPException as error:
            return _error(error.status, error.reason)

    @web.middleware
    async def _fault(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = self.faults.take(request.path)
        if fault is None:
            return await handler(request)
        if fault.kind == SLOW:
            await self.faults.hold(fault.seconds)
            return await handler(request)
        if fault.kind in (DARK, REFUSE, HANG, LOST):
            if fault.kind == HANG:
                await self.faults.hold(None)
            elif fault.kind == LOST:
                await handler(request)
            if request.transport is not None:
                request.transport.abort()
            # Nobody reads this answer: the connection is gone, and aiohttp leaves it at that.
            return web.Response(status=500)
        answer = _error(fault.status, fault.error)
        if fault.retry_after:
            answer.headers["Retry-After"] = fault.retry_after
        return answer


class _Refused(Exception):
    """A request of a device that may not; *status* is the answer's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _severity(level: str) -> int:
    """How bad a level is; one of the user's own is as bad as any."""
    return validation.LEVELS.index(level) if level in validation.LEVELS else len(validation.LEVELS)


def _error(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason, "request_id": str(uuid.uuid4())}, status=status)


def _listed(alerts: list[Received], count: int) -> web.Response:
    body = [received.as_json() for received in alerts]
    return web.json_response(body, headers={"X-Total-Count": str(count)}, dumps=_dumps)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _html(text: str) -> web.Response:
    return web.Response(
        text=text,
        content_type="text/html",
        headers={"Content-Security-Policy": page.CONTENT_SECURITY_POLICY, "Cache-Control": "no-store"},
    )


def _number(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 1 <= int(text) <= most):
        raise InvalidError(f"{name} must be a whole number from 1 to {most}")
    return int(text)


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidError(f"{name} must be true or false")
    return text == "true"


def _moment(request: web.Request, name: str) -> float | None:
    """A time in the query: RFC 3339, or seconds since the epoch."""
    text = request.query.get(name)
    if not text:
        return None
    try:
        return float(text) if text.isdigit() else validation.timestamp(text)
    except ValueError as error:
        raise InvalidError(f"{name} {error}") from error
