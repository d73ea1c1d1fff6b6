"""What slm-serve says of itself at /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from slm_bench.serve.http import Connection

BUSY = ("slm_running", "slm_queue", "slm_pages_used")
PATIENCE = 30.0  # seconds


async def metrics(port: int) -> dict[str, float]:
    """Samples without labels, by name."""
    connection = await Connection.open(port)
    lines = (await connection.get("/metrics")).decode().splitlines()
    connection.close()
    pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


async def idle(port: int) -> dict[str, int]:
    """Texts and pages that are still held, once none is, or after half a minute."""
    found: dict[str, int] = {}

    def at_rest(now: dict[str, float]) -> bool:
        found.update({name: int(now[name]) for name in BUSY})
        return not any(found.values())

    await until(port, at_rest)
    return found


async def until(port: int, reached: Callable[[dict[str, float]], bool], patience: float = PATIENCE) -> bool:
    """Ask until the figures are as wanted. Whether they became so within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not reached(await metrics(port)):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
