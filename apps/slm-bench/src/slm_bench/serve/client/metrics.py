"""slm-serve's ``/metrics``: read once, or polled until they reach a state."""

import asyncio
import time
from collections.abc import Callable

from slm_bench.serve.client.http_client import Connection

BUSY = ("slm_running", "slm_queue", "slm_pages_used")
TIMEOUT = 30.0  # seconds


async def read_metrics(port: int) -> dict[str, float]:
    """Return the samples without labels, by name."""
    connection = await Connection.open(port)
    lines = (await connection.get("/metrics")).decode().splitlines()
    connection.close()
    pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


async def wait_until_idle(port: int) -> dict[str, int]:
    """Wait up to ``TIMEOUT`` seconds until no sequence and no page is in use; return how many still are."""
    in_use: dict[str, int] = {}

    def is_idle(metrics: dict[str, float]) -> bool:
        in_use.update({name: int(metrics.get(name, 0)) for name in BUSY})
        return not any(in_use.values())

    await wait_until(port, is_idle)
    return in_use


async def wait_until(port: int, is_reached: Callable[[dict[str, float]], bool], timeout: float = TIMEOUT) -> bool:
    """Poll the metrics until ``is_reached`` returns true for them; return False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not is_reached(await read_metrics(port)):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
