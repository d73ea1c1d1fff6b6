"""A small HTTP/1.1 client over asyncio streams, fast enough that the load generator is never the bottleneck."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

from slm_bench.errors import BenchError

HOST = "127.0.0.1"


class ConnectionBroken(BenchError):
    """The connection ended before the reply did."""


@dataclass(frozen=True)
class ResponseHead:
    """Status and headers of a response; header names are in lower case."""

    status: int
    headers: dict[str, str]

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


class Connection:
    """A persistent connection to a server on this machine. Methods raise ConnectionBroken if the server hangs up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection(HOST, port))

    async def post(self, path: str, body: bytes, sent: int | None = None) -> None:
        """Send a request; with ``sent``, only that many bytes of its body."""
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        await self._send(f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{length}\r\n".encode() + body[:sent])

    async def get(self, path: str) -> bytes:
        """Return the body at ``path``. Raises BenchError for a status other than 200."""
        await self._send(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        head = await self.head()
        body = b"".join([chunk async for chunk in self.chunks(head)])
        if head.status != 200:
            raise BenchError(f"{path} answered {head.status}: {body.decode(errors='replace')[:300]}")
        return body

    async def head(self) -> ResponseHead:
        """Read status and headers of the next response."""
        try:
            start, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ConnectionBroken("the connection ended before an answer") from error
        pairs = [line.partition(":") for line in lines if line]
        return ResponseHead(int(start.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs})

    async def chunks(self, head: ResponseHead) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""
        try:
            if head.headers.get("transfer-encoding") != "chunked":
                yield await self._reader.readexactly(int(head.headers["content-length"]))
                return
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ConnectionBroken("the connection ended in the middle of an answer") from error

    def close(self) -> None:
        """Close in an orderly way."""
        self._writer.close()

    def abort(self) -> None:
        """Close at once and drop whatever was not sent."""
        self._writer.transport.abort()

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise ConnectionBroken("the connection ended before the request was sent") from error


async def decode_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Decode server-sent events, without the final ``[DONE]``."""
    rest = b""
    async for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n\n")
        for event in complete:
            data = event.removeprefix(b"data: ")
            if data and data != b"[DONE]":
                yield json.loads(data)
