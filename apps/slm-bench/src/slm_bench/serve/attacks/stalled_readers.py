"""Clients that ask for as many texts as the server takes and do not read them."""

import asyncio
import json
import socket
from collections import Counter

from slm_bench.serve.attacks.target import Target, is_closed, post

TEXTS = 8  # of each client
RECEIVE_BUFFER = 4096  # bytes
PAUSE = 0.02  # seconds
# With its log-probabilities an event has more than a kilobyte, so that the buffers of a connection fill soon.
REQUEST = {"prompt": "Once upon a time", "max_tokens": 400, "n": TEXTS, "logprobs": 20, "ignore_eos": True}
REFUSED = b" 429 "


async def stalled_readers(target: Target) -> Counter[str]:
    """Take all places with streams, each of them once, and wait."""
    counts = Counter[str]()
    body = json.dumps(REQUEST | {"model": target.model, "stream": True}).encode()
    clients = (_client(target, post("/v1/completions", body), counts) for _ in range(max(target.places // TEXTS, 1)))
    await asyncio.gather(*clients)
    return counts


async def _client(target: Target, request: bytes, counts: Counter[str]) -> None:
    while not target.is_over:
        with await target.connect(RECEIVE_BUFFER) as connection:
            await target.send(connection, request)
            if REFUSED in await _first_bytes(target, connection):
                counts["refused"] += 1
                continue
            counts["accepted"] += 1
            while not target.is_over:
                await asyncio.sleep(PAUSE)
            counts["closed"] += is_closed(connection)


async def _first_bytes(target: Target, connection: socket.socket) -> bytes:
    """Wait for the answer; return how it begins, without reading it."""
    while not target.is_over:
        try:
            return connection.recv(20, socket.MSG_PEEK)
        except BlockingIOError:
            await asyncio.sleep(PAUSE)
        except OSError:
            break
    return REFUSED
