"""Disconnects: clients that leave at random moments. The server must release their pages and stay usable."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.harness.guarantees import Guarantee, format_counts
from slm_bench.serve.client.closed_loop import PATH, Reply, closed_loop, completion
from slm_bench.serve.client.http_client import Connection
from slm_bench.serve.client.metrics import wait_until_idle
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.servers.processes import Server
from slm_bench.serve.setting import Setting

BEFORE_BODY, WHILE_WAITING, IN_STREAM = MOMENTS = ("before the body", "while waiting", "in the stream")
AFTER_ANSWER = "after the answer"  # it arrived before the client disconnected


@dataclass(frozen=True)
class Disconnects:
    """What was observed; field names are JSON keys."""

    left: dict[str, int]  # number of clients by the moment they left
    held: dict[str, int]  # sequences and pages in use afterwards
    next: Reply  # to the request that followed
    new: int  # tokens that it asked for

    @property
    def guarantees(self) -> list[Guarantee]:
        left = ", ".join(f"{count} {moment}" for moment, count in sorted(self.left.items()))
        answered = self.next.status == 200 and self.next.tokens == self.new
        reply = f"{self.next.status}, {self.next.tokens} tokens"
        observed = f"{format_counts(self.held)}; left: {left}"
        return [
            Guarantee("slm-serve holds nothing for clients that left", not any(self.held.values()), observed),
            Guarantee("after clients left, it answers the next request", answered, reply),
        ]


def measure(setting: Setting, server: Server, prompts: Prompts) -> Disconnects:
    """Send a request for each prompt, as many concurrently as the server runs, and leave each at a random moment."""
    print(f"disconnects: {setting.sizes.disconnects} clients", file=sys.stderr)
    with server.resumed():
        return asyncio.run(_measure(setting, server, prompts.take(setting.sizes.disconnects + 1)))


async def _measure(setting: Setting, server: Server, prompts: Sequence[str]) -> Disconnects:
    new, program = setting.sizes.new, server.program
    body = completion(program.model, prompts[0], new, **program.request_fields)
    (undisturbed,) = await closed_loop(server.port, [body], 1)
    generator, left, unsent = random.Random(0), Counter[str](), iter(prompts[1:])

    async def client() -> None:
        for prompt in unsent:
            left[await _leave(server, prompt, new, undisturbed.last, generator)] += 1

    await asyncio.gather(*(client() for _ in range(setting.concurrency)))
    held = await wait_until_idle(server.port)
    (next_reply,) = await closed_loop(server.port, [body], 1)
    return Disconnects(dict(left), held, next_reply, new)


async def _leave(server: Server, prompt: str, new: int, usual: float, generator: random.Random) -> str:
    """Send one request, disconnect, and return the moment. ``usual``: seconds of an undisturbed answer."""
    moment = generator.choice(MOMENTS)
    connection = await Connection.open(server.port)
    body = completion(server.program.model, prompt, new, stream=moment == IN_STREAM, ignore_eos=True)
    if moment == BEFORE_BODY:
        await connection.post(PATH, body, sent=generator.randrange(len(body)))
        await asyncio.sleep(generator.uniform(0, 0.01))
    else:
        await connection.post(PATH, body)
        read = _wait if moment == WHILE_WAITING else _read_some
        if await read(connection, new, usual, generator):
            moment = AFTER_ANSWER
    generator.choice((connection.close, connection.abort))()
    return moment


async def _wait(connection: Connection, new: int, usual: float, generator: random.Random) -> bool:
    """Wait for at most ``usual`` seconds. Returns whether the answer arrived."""
    try:
        await asyncio.wait_for(connection.head(), generator.uniform(0, usual))
    except TimeoutError:
        return False
    return True


async def _read_some(connection: Connection, new: int, usual: float, generator: random.Random) -> bool:
    """Read at most half of the chunks. Returns whether the stream ended."""
    remaining = generator.randint(0, new // 2)
    if not remaining:
        return False
    head = await connection.head()
    async for _ in connection.chunks(head):
        remaining -= 1
        if not remaining:
            return False
    return True
