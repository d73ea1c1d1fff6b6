"""The id of a request: from its ``x-request-id`` header or generated, in its response and in log messages about it."""

from __future__ import annotations

import logging
import os
import re
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slm_serve.http.raw_headers import header

HEADER = b"x-request-id"
SAFE_ID = re.compile(rb"[!-~]{1,128}")  # printable ASCII without spaces; an id is copied into logs
LOG_FORMAT = "%(asctime)s %(levelname)s %(request_id)s%(message)s"

_request_id: ContextVar[str] = ContextVar("request_id", default="")


class RequestIdMiddleware:
    """Adds the id of the request to its response, and to log messages while it is handled."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _sent_id(scope) or os.urandom(16).hex().encode()
        _request_id.set(request_id.decode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


class RequestIdFilter(logging.Filter):
    """Sets ``request_id`` of a log record: the id in brackets, or nothing outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = _request_id.get()
        record.request_id = f"[{request_id}] " if request_id else ""
        return True


def _sent_id(scope: Scope) -> bytes | None:
    """Return the id that the client sent; None for one that does not belong into a log."""
    value = header(scope, HEADER)
    return value if value and SAFE_ID.fullmatch(value) else None
