"""A small HTTP/1.1 client over asyncio's streams: a load generator must not be the slowest part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from slm_kv import KVError

HOST = "127.0.0.1"


class Broken(KVError):
    """A connection that ended before its answer did."""


@dataclass(frozen=True)
class Head:
    """The beginning of an answer; names of headers in small letters."""

    status: int
    headers: dict[str, str]

    @property
    def streams(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


class Connection:
    """One connection to a server of this machine, kept alive from request to request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection(HOST, port))

    async def post(self, path: str, body: bytes, sent: int | None = None) -> None:
        """Send a request, of its body only the first ``sent`` bytes where that is given."""
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        await self._send(f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{length}\r\n".encode() + body[:sent])

    async def get(self, path: str) -> bytes:
        """The body of what ``path`` answers. Raises KVError for an answer other than 200."""
        await self._send(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        head = await self.head()
        body = b"".join([piece async for piece in self.pieces(head)])
        if head.status != 200:
            raise KVError(f"{path} answered {head.status}")
        return body

    async def head(self) -> Head:
        """The status and the headers of the answer to come. Raises Broken."""
        try:
            start, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as gone:
            raise Broken("the connection ended before an answer") from gone
        pairs = [line.partition(":") for line in lines if line]
        return Head(int(start.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs})

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises Broken."""
        try:
            if head.headers.get("transfer-encoding") != "chunked":
                yield await self._reader.readexactly(int(head.headers["content-length"]))
                return
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError) as gone:
            raise Broken("the connection ended in the middle of an answer") from gone

    def close(self) -> None:
        """Hang up in an orderly way."""
        self._writer.close()

    def abort(self) -> None:
        """Hang up at once, whatever is still under way."""
        self._writer.transport.abort()

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError as gone:
            raise Broken("the connection ended before the request was sent") from gone


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events, decoded; the closing ``[DONE]`` is none."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            data = event.removeprefix(b"data: ")
            if data and data != b"[DONE]":
                yield json.loads(data)
