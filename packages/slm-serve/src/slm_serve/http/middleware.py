"""What stands before the routes: the key, the size of a body, the count of answers. Plain ASGI: streams pass."""

from __future__ import annotations

import base64
import binascii
import secrets

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slm_serve.errors import ServeError
from slm_serve.http.exception_handlers import refusal
from slm_serve.metrics import Metrics

OPEN = ("/health/live", "/health/ready")
CHALLENGE = {"WWW-Authenticate": 'Bearer, Basic realm="slm-serve", charset="UTF-8"'}


class KeyGuard:
    """Asks all but health for the key: as a bearer token, or as the password of basic authentication, which browsers
    ask for by themselves. Compared in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = ServeError(401, "no API key, or a wrong one: send it as a bearer token", headers=CHALLENGE)
        await refusal(scope["path"], error)(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            given = _password(given)
        elif kind.lower() != "bearer":
            return False
        return secrets.compare_digest(given.strip().encode(), self._key)


class BodyLimit:
    """Refuses bodies of more than ``most`` bytes, whatever their headers say."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "0")
        if said.isdigit() and int(said) > self._most:
            await refusal(scope["path"], ServeError(413, self._message))(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise HTTPException(413, self._message)
            return message

        await self._app(scope, counted, send)

    @property
    def _message(self) -> str:
        return f"the body has more than {self._most} bytes; send less at once"


class Counted:
    """Counts answers by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.request(route, message["status"])
            await send(message)

        await self._app(scope, receive, noted)


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
