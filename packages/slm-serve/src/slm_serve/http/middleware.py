"""ASGI middleware: API key, body size limit, response counts, HEAD and trailing slashes.

It is plain ASGI, not Starlette's BaseHTTPMiddleware, so that streamed responses pass through unchanged.
"""

from __future__ import annotations

import base64
import binascii
import secrets

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slm_serve.errors import RequestError
from slm_serve.http.exception_handlers import error_response
from slm_serve.http.raw_headers import header
from slm_serve.metrics import Metrics

HEALTH_PATHS = ("/health", "/health/live", "/health/ready")  # need no key
# Each in a header of its own: Chromium does not ask for a password if another scheme comes first in the same header.
CHALLENGES = ("Bearer", 'Basic realm="slm-serve", charset="UTF-8"')


class ApiKeyMiddleware:
    """Requires the API key for everything except health checks.

    The key is sent as a bearer token, or as the password of HTTP basic authentication, for which browsers ask by
    themselves. It is compared in constant time.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.strip().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        error = RequestError(401, "the API key is missing or wrong; send it as a bearer token")
        response = error_response(scope["path"], error)
        for challenge in CHALLENGES:
            response.headers.append("WWW-Authenticate", challenge)
        await response(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        # Bytes, because Starlette decodes headers as Latin-1, but clients send keys in UTF-8.
        scheme, _, credentials = (header(scope, b"authorization") or b"").partition(b" ")
        if scheme.lower() == b"basic":
            credentials = _basic_password(credentials)
        elif scheme.lower() != b"bearer":
            return False
        return secrets.compare_digest(credentials.strip(), self._key)


class BodySizeLimitMiddleware:
    """Rejects bodies of more than ``max_bytes`` with 413, by Content-Length or, without one, while receiving them."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":  # no route reads the body of a GET
            await self._app(scope, receive, send)
            return
        content_length = header(scope, b"content-length") or b"0"
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


class PathMiddleware:
    """Answers HEAD as GET without a body, and a path with a trailing slash as the path without it.

    Starlette would redirect from such a path, with the address that the server has behind a proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"].endswith("/") and scope["path"] != "/":
                scope["path"] = scope["path"].rstrip("/") or "/"
            if scope["method"] == "HEAD":
                # A copy, because the server leaves out the body if its own scope has the method HEAD.
                scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self._app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def send_without_body(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_without_body


def _basic_password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
