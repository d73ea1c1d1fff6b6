"""Clients that open connections and send nothing."""

import asyncio
import socket
from collections import Counter

from slm_bench.serve.attacks.target import Target, is_closed

CONNECTIONS = 3000
PAUSE = 0.25  # seconds between two checks of all connections


async def connection_flood(target: Target) -> Counter[str]:
    """Keep as many connections open as this process may; replace those that the server closes."""
    counts, connections = Counter[str](), list[socket.socket]()
    while not target.is_over:
        closed = [connection for connection in connections if is_closed(connection)]
        for connection in closed:
            connection.close()
        counts["closed"] += len(closed)
        connections = [connection for connection in connections if connection.fileno() >= 0]
        try:
            while len(connections) < CONNECTIONS and not target.is_over:
                async with asyncio.timeout(PAUSE):
                    connections.append(await target.connect())
                counts["opened"] += 1
        except (OSError, TimeoutError):
            counts["refused"] += 1
        await asyncio.sleep(PAUSE)
    for connection in connections:
        connection.close()
    return counts
