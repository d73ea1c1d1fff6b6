"""Twice as many clients as the server takes in, for a while: it answers 200 or 429, and holds nothing afterwards."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.promises import Promise
from slm_bench.serve.http import Broken, Connection
from slm_bench.serve.load import Reply, ask, closed_loop, completion, percentile
from slm_bench.serve.metrics import idle
from slm_bench.serve.prompts import Prompts
from slm_bench.serve.servers import Server
from slm_bench.serve.setting import Setting

BREAK = (0.02, 0.2)  # seconds that a refused client waits; less than Retry-After, which asks for 1 at least
NO_ANSWER = 0  # instead of a status: the connection ended
FULL = 429


@dataclass(frozen=True)
class Overload:
    """``statuses``: how many answers had each. Seconds of those that were accepted, in the order of their ends.
    Bytes of memory of the server before and after. ``held``: texts and pages at the end."""

    clients: int
    seconds: float
    statuses: dict[int, int]
    accepted: tuple[float, ...]
    unfinished: int
    rss_before: int
    rss_after: int
    held: dict[str, int]

    @property
    def promises(self) -> list[Promise]:
        seen = ", ".join(f"{status or 'no answer'}: {count:,}" for status, count in sorted(self.statuses.items()))
        return [
            Promise("an overloaded server answers 200 or 429", set(self.statuses) == {200, FULL}, seen),
            Promise("whoever got 200 got all tokens", self.unfinished == 0, f"{self.unfinished} did not"),
            Promise("it holds nothing afterwards", not any(self.held.values()), _held(self.held)),
        ]

    @property
    def median(self) -> float:
        return statistics.median(self.accepted)

    @property
    def p99(self) -> float:
        return percentile(self.accepted, 99)


def measure(setting: Setting, server: Server, prompts: Prompts) -> Overload:
    """Memory is looked at after as many requests as the server takes in, and again at the end."""
    clients = 2 * setting.capacity
    print(f"overload: {clients} clients, {setting.sizes.overload_seconds:g} s", file=sys.stderr)
    with server.awake():
        return asyncio.run(_measure(setting, server, prompts.take(clients), clients))


async def _measure(setting: Setting, server: Server, prompts: Sequence[str], clients: int) -> Overload:
    new = setting.sizes.new
    bodies = [completion(server.program.model, prompt, new, **server.program.more) for prompt in prompts]
    await closed_loop(server.port, bodies[: setting.capacity], setting.capacity)
    before, start = server.rss(), time.perf_counter()
    until = start + setting.sizes.overload_seconds
    answers = await asyncio.gather(*(_client(server.port, body, until, number) for number, body in enumerate(bodies)))
    replies = [reply for one in answers for reply in one]
    accepted = [reply for reply in replies if reply.status == 200]
    return Overload(
        clients,
        time.perf_counter() - start,
        dict(Counter(reply.status for reply in replies)),
        tuple(reply.last for reply in accepted),
        sum(reply.tokens != new or bool(reply.error) for reply in accepted),
        before,
        server.rss(),
        await idle(server.port),
    )


async def _client(port: int, body: bytes, until: float, number: int) -> list[Reply]:
    """Asks again and again; refused, after a moment."""
    draw, replies = random.Random(number), list[Reply]()
    connection = await Connection.open(port)
    while time.perf_counter() < until:
        try:
            replies.append(await ask(connection, body))
        except Broken as gone:
            replies.append(Reply(NO_ANSWER, 0, 0, 0, str(gone)))
            connection = await Connection.open(port)
        if replies[-1].status == FULL:
            await asyncio.sleep(draw.uniform(*BREAK))
    connection.close()
    return replies


def _held(held: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in held.items())
