"""Honest clients: each sends its request on a new connection, tries again when refused, and measures its patience."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from slm_bench.errors import BenchError
from slm_bench.serve.client.closed_loop import NO_ANSWER, Reply, send_or_fail
from slm_bench.serve.client.http_client import Connection

PAUSE = 0.1  # seconds that a refused client waits, and between two checks of health and memory


@dataclass
class HonestClient:
    """What one client observed.

    Attributes:
        latencies: seconds of each complete answer, from the first try of its request.
        statuses: number of replies by HTTP status.
        last_answer: when the last complete answer ended, in seconds of ``time.perf_counter``.
    """

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    last_answer: float = 0.0

    async def run(self, port: int, body: bytes, tokens: int, end: float) -> None:
        """Send ``body`` again and again until ``end``; a complete answer has ``tokens`` tokens."""
        first_try = time.perf_counter()
        while (remaining := end - time.perf_counter()) > 0:
            try:
                reply = await asyncio.wait_for(_send(port, body), remaining)
            except TimeoutError:
                return
            self.statuses[reply.status] += 1
            if reply.status == 200 and reply.is_complete(tokens):
                now = time.perf_counter()
                self.latencies.append(now - first_try)
                self.last_answer = first_try = now
            else:
                await asyncio.sleep(PAUSE)


async def slowest_health_check(port: int, end: float) -> float:
    """Check the server's health until ``end`` and return the seconds of the slowest check.

    A check that fails, or is not answered by then, counts as one that takes until ``end``.
    """
    slowest = 0.0
    while (start := time.perf_counter()) < end:
        try:
            await asyncio.wait_for(_check_health(port), end - start)
        except TimeoutError:
            return max(slowest, time.perf_counter() - start)
        except (BenchError, OSError):
            await asyncio.sleep(end - time.perf_counter())
        slowest = max(slowest, time.perf_counter() - start)
        await asyncio.sleep(PAUSE)
    return slowest


async def highest(value: Callable[[], int], end: float) -> int:
    """Read ``value`` until ``end`` and return the highest one."""
    highest_value = value()
    while time.perf_counter() < end:
        await asyncio.sleep(PAUSE)
        highest_value = max(highest_value, value())
    return highest_value


async def _check_health(port: int) -> None:
    connection = await Connection.open(port)
    try:
        await connection.get("/health/live")
    finally:
        connection.close()


async def _send(port: int, body: bytes) -> Reply:
    try:
        connection = await Connection.open(port)
    except OSError as error:
        return Reply(NO_ANSWER, 0, 0, 0, str(error))
    try:
        return await send_or_fail(connection, body)
    finally:
        connection.close()
