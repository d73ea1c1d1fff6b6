"""Closed-loop load: a fixed number of clients, each of which sends its next request once the last one is answered."""

import asyncio
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slm_bench.serve.client.http_client import Connection, ConnectionBroken, ResponseHead, decode_events

PATH = "/v1/completions"
NO_ANSWER = 0  # status of a reply that never came


@dataclass(frozen=True)
class Reply:
    """A reply; field names are JSON keys. Seconds count from sending the request."""

    status: int
    first: float  # seconds to the first piece of text; without streaming, to the end
    last: float  # seconds to the last piece of text
    tokens: int  # as counted by the server
    error: str = ""  # what the server reported instead of, or after, a text

    @property
    def each(self) -> float:
        """Seconds per token after the first."""
        return (self.last - self.first) / max(self.tokens - 1, 1)

    def is_complete(self, tokens: int) -> bool:
        return self.tokens == tokens and not self.error


def completion(model: str, prompt: str, new: int, *, stream: bool = True, **fields: Any) -> bytes:
    """Return the body of a greedy request for ``new`` tokens."""
    request = {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0, "stream": stream}
    return json.dumps(request | fields).encode()


async def send(connection: Connection, body: bytes) -> Reply:
    """Send a request and read its reply to the end. Raises ConnectionBroken."""
    start = time.perf_counter()
    await connection.post(PATH, body)
    head = await connection.head()
    return await (_read_stream if head.is_event_stream else _read_whole)(connection, head, start)


async def send_or_fail(connection: Connection, body: bytes) -> Reply:
    """Send a request; return a reply of status ``NO_ANSWER`` if the connection ends first."""
    try:
        return await send(connection, body)
    except ConnectionBroken as error:
        return Reply(NO_ANSWER, 0, 0, 0, str(error))


async def closed_loop(port: int, bodies: Iterable[bytes], clients: int) -> list[Reply]:
    """Send each of ``bodies`` once with ``clients`` concurrent clients. Raises ConnectionBroken."""
    waiting, replies = iter(bodies), list[Reply]()

    async def client() -> None:
        connection = await Connection.open(port)
        for body in waiting:
            replies.append(await send(connection, body))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` of them do not exceed (nearest rank)."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


async def _read_stream(connection: Connection, head: ResponseHead, start: float) -> Reply:
    first = last = 0.0
    tokens, error = 0, ""
    async for event in decode_events(connection.chunks(head)):
        if event.get("choices"):
            last = time.perf_counter() - start
            first = first or last
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        if "error" in event:
            error = str(event["error"])
    return Reply(head.status, first, last, tokens, error)


async def _read_whole(connection: Connection, head: ResponseHead, start: float) -> Reply:
    body = b"".join([chunk async for chunk in connection.chunks(head)])
    end = time.perf_counter() - start
    if head.status != 200:
        return Reply(head.status, end, end, 0, body.decode(errors="replace"))
    return Reply(head.status, end, end, json.loads(body)["usage"]["completion_tokens"])
