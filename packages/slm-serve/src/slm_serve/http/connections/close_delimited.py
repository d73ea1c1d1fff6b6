"""Responses for HTTP/1.0."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class CloseDelimitedSend:
    """Replaces ``send`` of a cycle for an HTTP/1.0 client, which does not know chunks.

    A body of unknown length ends with the connection. uvicorn 0.54 would send it in chunks.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle, self._send = cycle, cycle.send
        self._has_length = True

    async def __call__(self, message: Any) -> None:
        cycle = self._cycle
        if message["type"] == "http.response.start":
            self._has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not self._has_length:
                cycle.chunked_encoding = False
        elif not self._has_length:
            cycle.expected_content_length = len(message.get("body", b""))  # uvicorn checks and subtracts it
        await self._send(message)
