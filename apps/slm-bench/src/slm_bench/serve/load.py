"""The load: completions asked for by a number of clients at once, each of which asks again once it is answered."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slm_bench.serve.http import Connection, Head, events

PATH = "/v1/completions"


@dataclass(frozen=True)
class Reply:
    """Seconds are from sending the request: to the first piece of text, and to the last. Without streaming both are
    the end. ``tokens``: as the server counts them. ``error``: what it said instead of, or after, a text."""

    status: int
    first: float
    last: float
    tokens: int
    error: str = ""

    @property
    def each(self) -> float:
        """Seconds a token after the first."""
        return (self.last - self.first) / max(self.tokens - 1, 1)


def completion(model: str, prompt: str, new: int, *, stream: bool = True, **more: Any) -> bytes:
    """A request's body: greedy, ``new`` tokens."""
    asked = {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0, "stream": stream}
    return json.dumps(asked | more).encode()


async def ask(connection: Connection, body: bytes) -> Reply:
    """Ask, and read the answer to its end. Raises Broken."""
    start = time.perf_counter()
    await connection.post(PATH, body)
    head = await connection.head()
    return await (_streamed if head.streams else _whole)(connection, head, start)


async def closed_loop(port: int, bodies: Iterable[bytes], clients: int) -> list[Reply]:
    """All ``bodies``, ``clients`` at once. Raises Broken."""
    waiting, replies = iter(bodies), list[Reply]()

    async def client() -> None:
        connection = await Connection.open(port)
        for body in waiting:
            replies.append(await ask(connection, body))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that ``percent`` of all do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


async def _streamed(connection: Connection, head: Head, start: float) -> Reply:
    first = last = 0.0
    tokens, error = 0, ""
    async for event in events(connection.pieces(head)):
        if event.get("choices"):
            last = time.perf_counter() - start
            first = first or last
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        if "error" in event:
            error = str(event["error"])
    return Reply(head.status, first, last, tokens, error)


async def _whole(connection: Connection, head: Head, start: float) -> Reply:
    body = b"".join([piece async for piece in connection.pieces(head)])
    end = time.perf_counter() - start
    if head.status != 200:
        return Reply(head.status, end, end, 0, body.decode(errors="replace"))
    return Reply(head.status, end, end, json.loads(body)["usage"]["completion_tokens"])
