"""ASGI middleware: API key, body size limit, and response counts.

It is plain ASGI, not Starlette's BaseHTTPMiddleware, so that streamed responses pass through unchanged.
"""

from __future__ import annotations

import base64
import binascii
import secrets

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slm_serve.errors import RequestError
from slm_serve.http.exception_handlers import error_response
from slm_serve.metrics import Metrics

PATHS_WITHOUT_KEY = ("/health/live", "/health/ready")
CHALLENGE = {"WWW-Authenticate": 'Bearer, Basic realm="slm-serve", charset="UTF-8"'}


class ApiKeyMiddleware:
    """Requires the API key for everything except health checks.

    The key is sent as a bearer token, or as the password of HTTP basic authentication, for which browsers ask by
    themselves. It is compared in constant time.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PATHS_WITHOUT_KEY or self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = RequestError(401, "the API key is missing or wrong; send it as a bearer token", headers=CHALLENGE)
        await error_response(scope["path"], error)(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            credentials = _basic_password(credentials)
        elif scheme.lower() != "bearer":
            return False
        return secrets.compare_digest(credentials.strip().encode(), self._key)


class BodySizeLimitMiddleware:
    """Rejects bodies of more than ``max_bytes`` with 413, by Content-Length or, without one, while receiving them."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "0")
        if content_length.isdigit() and int(content_length) > self._max_bytes:
            await error_response(scope["path"], RequestError(413, self._message))(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:  # a chunked body has no Content-Length
                raise HTTPException(413, self._message)
            return message

        await self._app(scope, limited_receive, send)

    @property
    def _message(self) -> str:
        return f"the body has more than {self._max_bytes} bytes; send less at once"


class ResponseCountMiddleware:
    """Counts responses by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.count_response(route, message["status"])
            await send(message)

        await self._app(scope, receive, counting_send)


def _basic_password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
