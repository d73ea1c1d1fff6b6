"""Answers over a connection that may go away: as server-sent events, or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import orjson
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slm_serve.errors import ServeError
from slm_serve.http.exception_handlers import openai_body

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
# What a route's schema says of an answer in events.
AS_EVENTS: dict[str, Any] = {
    "content": {
        "text/event-stream": {
            "schema": {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
        }
    }
}


class ClientGone(Exception):
    """Whoever asked has hung up: there is nobody to answer."""


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns. Raises ClientGone, and cancels it, as soon as the client hangs up."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_hung_up(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return await task
    finally:
        await _end(task, gone)


class EventStream(Response):
    """Sends ``events`` as they come, a ServeError in their midst as the last one, and calls ``on_end`` once: at their
    end, or as the client hangs up."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_hung_up(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            await _end(sending, gone)
            self._on_end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except ServeError as error:
            await send({"type": "http.response.body", "body": event(openai_body(error)), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
