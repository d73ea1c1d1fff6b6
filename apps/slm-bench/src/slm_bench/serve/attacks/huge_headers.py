"""Clients that send a header field which never ends."""

import asyncio
from collections import Counter

from slm_bench.serve.attacks.target import ADDRESS, Target

CLIENTS = 16
HEADER_BYTES = 32 * 2**20  # that each client sends at most
PIECE = b"a" * 65_536
START = f"GET / HTTP/1.1\r\nHost: {ADDRESS}\r\nX-Header: ".encode()


async def huge_headers(target: Target) -> Counter[str]:
    """Let each client send its header, keep the connection open, and begin again when it is closed."""
    counts = Counter[str]()
    await asyncio.gather(*(_client(target, counts) for _ in range(CLIENTS)))
    return counts


async def _client(target: Target, counts: Counter[str]) -> None:
    while not target.is_over:
        with await target.connect() as connection:
            counts["opened"] += 1
            await target.send(connection, START)
            for _ in range(HEADER_BYTES // len(PIECE)):
                if not await target.send(connection, PIECE):
                    break
                counts["bytes"] += len(PIECE)
            await target.read_to_end(connection)
            counts["closed"] += not target.is_over
        await asyncio.sleep(0.05)
