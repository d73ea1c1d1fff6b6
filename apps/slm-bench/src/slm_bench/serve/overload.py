"""Overload: twice as many clients as the server accepts. It must answer 200 or 429, and release all pages."""

import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.harness.guarantees import Guarantee, format_counts, format_statuses
from slm_bench.serve.client.closed_loop import NO_ANSWER, Reply, closed_loop, completion, percentile, send_or_fail
from slm_bench.serve.client.http_client import Connection
from slm_bench.serve.client.metrics import wait_until_idle
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.servers.processes import Server
from slm_bench.serve.setting import Setting

PAUSE = (0.02, 0.2)  # seconds that a refused client waits; some clients ignore Retry-After, which asks for at least 1
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Overload:
    """What clients and server observed; field names are JSON keys."""

    clients: int
    seconds: float
    statuses: dict[int, int]  # number of replies by HTTP status
    accepted: tuple[float, ...]  # seconds of each reply with status 200
    unfinished: int  # accepted requests that got fewer tokens than requested
    rss_before: int  # resident memory of the server in bytes
    rss_after: int
    held: dict[str, int]  # sequences and pages in use at the end

    @property
    def guarantees(self) -> list[Guarantee]:
        load = f"{self.clients} clients for {self.seconds:.0f} s: {format_statuses(self.statuses)}"
        seconds = self.accepted or (0.0,)
        latency = f"{self.unfinished} did not; {statistics.median(seconds):.1f} s in the median"
        latency += f", p99 {percentile(seconds, 99):.1f} s"
        memory = f"{self.rss_before / 1e6:.0f} MB before, {self.rss_after / 1e6:.0f} MB after"
        held = f"{format_counts(self.held)}; {memory}"
        allowed = set(self.statuses) == {200, TOO_MANY_REQUESTS}
        return [
            Guarantee("an overloaded slm-serve answers 200 or 429", allowed, load),
            Guarantee("each request that got 200 got all tokens", self.unfinished == 0, latency),
            Guarantee("after the overload it holds nothing", not any(self.held.values()), held),
        ]


def measure(setting: Setting, server: Server, prompts: Prompts) -> Overload:
    """Overload the server. Its memory is measured at the end, and before, after as many requests as it accepts."""
    clients = 2 * setting.capacity
    print(f"overload: {clients} clients for {setting.sizes.overload_seconds:g} s", file=sys.stderr)
    with server.resumed():
        return asyncio.run(_measure(setting, server, prompts.take(clients)))


async def _measure(setting: Setting, server: Server, prompts: Sequence[str]) -> Overload:
    new, program = setting.sizes.new, server.program
    bodies = [completion(program.model, prompt, new, **program.request_fields) for prompt in prompts]
    await closed_loop(server.port, bodies[: setting.capacity], setting.capacity)
    before, start = server.rss(), time.perf_counter()
    end = start + setting.sizes.overload_seconds
    by_client = await asyncio.gather(*(_client(server.port, body, end, seed) for seed, body in enumerate(bodies)))
    replies = [reply for client in by_client for reply in client]
    accepted = [reply for reply in replies if reply.status == 200]
    return Overload(
        len(prompts),
        time.perf_counter() - start,
        dict(Counter(reply.status for reply in replies)),
        tuple(reply.last for reply in accepted),
        sum(not reply.is_complete(new) for reply in accepted),
        before,
        server.rss(),
        await wait_until_idle(server.port),
    )


async def _client(port: int, body: bytes, end: float, seed: int) -> list[Reply]:
    """Send the same request until ``end``; pause after a refusal, reconnect after a broken connection."""
    pauses, replies = random.Random(seed), list[Reply]()
    connection = await Connection.open(port)
    while time.perf_counter() < end:
        replies.append(await send_or_fail(connection, body))
        if replies[-1].status == NO_ANSWER:
            connection = await Connection.open(port)
        if replies[-1].status == TOO_MANY_REQUESTS:
            await asyncio.sleep(pauses.uniform(*PAUSE))
    connection.close()
    return replies
