"""Clients that go away at random moments: the server holds nothing for them afterwards, and answers the next."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.promises import Promise
from slm_bench.serve.http import Connection
from slm_bench.serve.load import PATH, Reply, closed_loop, completion
from slm_bench.serve.metrics import idle
from slm_bench.serve.prompts import Prompts
from slm_bench.serve.servers import Server
from slm_bench.serve.setting import Setting

MOMENTS = ("before the body", "while waiting", "in the stream")
STAYED = "after the answer"  # which came sooner than it was left


@dataclass(frozen=True)
class Disconnects:
    """How many clients left at which moment; texts and pages held afterwards; the request after that."""

    left: dict[str, int]
    held: dict[str, int]
    next: Reply
    new: int

    @property
    def promises(self) -> list[Promise]:
        held = ", ".join(f"{name} {count}" for name, count in self.held.items())
        answered = self.next.status == 200 and self.next.tokens == self.new
        return [
            Promise("it holds nothing for clients that left", not any(self.held.values()), held),
            Promise("and answers the next", answered, f"{self.next.status}, {self.next.tokens} tokens"),
        ]


def measure(setting: Setting, server: Server, prompts: Prompts) -> Disconnects:
    """As many clients at once as texts run at once, each of which leaves once."""
    print(f"disconnects: {setting.sizes.disconnects} clients", file=sys.stderr)
    with server.awake():
        return asyncio.run(_measure(setting, server, prompts.take(setting.sizes.disconnects + 1)))


async def _measure(setting: Setting, server: Server, prompts: Sequence[str]) -> Disconnects:
    new, program = setting.sizes.new, server.program
    body = completion(program.model, prompts[0], new, **program.more)
    (first,) = await closed_loop(server.port, [body], 1)
    draw, left, waiting = random.Random(0), Counter[str](), iter(prompts[1:])

    async def client() -> None:
        for prompt in waiting:
            left[await _leave(server, prompt, new, first.last, draw)] += 1

    await asyncio.gather(*(client() for _ in range(setting.concurrency)))
    held = await idle(server.port)
    (after,) = await closed_loop(server.port, [body], 1)
    return Disconnects(dict(left), held, after, new)


async def _leave(server: Server, prompt: str, new: int, usual: float, draw: random.Random) -> str:
    """One client. When it left."""
    moment = draw.choice(MOMENTS)
    connection = await Connection.open(server.port)
    body = completion(server.program.model, prompt, new, stream=moment == MOMENTS[2], ignore_eos=True)
    if moment == MOMENTS[0]:
        await connection.post(PATH, body, sent=draw.randrange(len(body)))
        await asyncio.sleep(draw.uniform(0, 0.01))
    else:
        await connection.post(PATH, body)
        if await (_stays if moment == MOMENTS[1] else _reads)(connection, new, usual, draw):
            moment = STAYED
    draw.choice((connection.close, connection.abort))()
    return moment


async def _stays(connection: Connection, new: int, usual: float, draw: random.Random) -> bool:
    """Waits up to as long as an answer usually takes. Whether it came."""
    try:
        await asyncio.wait_for(connection.head(), draw.uniform(0, usual))
    except TimeoutError:
        return False
    return True


async def _reads(connection: Connection, new: int, usual: float, draw: random.Random) -> bool:
    """Reads up to half of the pieces. Whether they ended."""
    wanted = draw.randint(0, new // 2)
    if not wanted:
        return False
    head = await connection.head()
    async for _ in connection.pieces(head):
        wanted -= 1
        if not wanted:
            return False
    return True
