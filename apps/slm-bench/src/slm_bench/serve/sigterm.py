"""SIGTERM with many requests in flight: each is answered, and the server ends by itself."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.promises import Promise
from slm_bench.serve.http import Broken, Connection
from slm_bench.serve.load import Reply, ask, completion
from slm_bench.serve.metrics import until
from slm_bench.serve.overload import NO_ANSWER
from slm_bench.serve.peers import slm_serve
from slm_bench.serve.prompts import Prompts
from slm_bench.serve.servers import Server, running
from slm_bench.serve.setting import Setting
from slm_kv import KVError

DRAIN_SECONDS = 600.0


@dataclass(frozen=True)
class Sigterm:
    """``in_flight``: of ``requests``, those that were unanswered at the signal. ``seconds``: from there to the
    process's end. ``exit_code``: None where it did not end."""

    requests: int
    in_flight: int
    statuses: dict[int, int]
    unfinished: int
    seconds: float
    exit_code: int | None

    @property
    def promises(self) -> list[Promise]:
        seen = ", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(self.statuses.items()))
        answered = self.statuses == {200: self.requests} and self.unfinished == 0
        return [
            Promise(
                "all requests in flight at SIGTERM are answered whole",
                answered and self.in_flight > 0,
                f"{self.in_flight} in flight; {seen}; {self.unfinished} cut short",
            ),
            Promise("and the exit code is 0", self.exit_code == 0, f"{self.exit_code} after {self.seconds:.1f} s"),
        ]


def measure(setting: Setting, prompts: Prompts) -> Sigterm:
    """On a server of its own, with room for all. Raises KVError where it does not take them in."""
    requests = setting.sizes.in_flight
    print(f"sigterm: {requests} requests", file=sys.stderr)
    program = slm_serve(setting, max_queue=requests, drain_timeout=DRAIN_SECONDS, request_timeout=DRAIN_SECONDS)
    with running(program, setting.logs, setting.cores.server) as server:
        return asyncio.run(_measure(setting, server, prompts.take(requests)))


async def _measure(setting: Setting, server: Server, prompts: Sequence[str]) -> Sigterm:
    new, program = setting.sizes.new, server.program
    bodies = [completion(program.model, prompt, new, **program.more) for prompt in prompts]
    asking = [asyncio.create_task(_ask_once(server.port, body)) for body in bodies]
    taken_in = len(prompts) * setting.sizes.prompt
    if not await until(server.port, lambda now: now["slm_prompt_tokens_total"] >= taken_in):
        raise KVError(f"slm-serve did not take in {len(prompts)} requests")
    in_flight, start = sum(not task.done() for task in asking), time.perf_counter()
    server.terminate()
    replies = await asyncio.gather(*asking)
    exit_code = await asyncio.to_thread(server.wait, DRAIN_SECONDS)
    return Sigterm(
        len(prompts),
        in_flight,
        dict(Counter(reply.status for reply in replies)),
        sum(reply.tokens != new or bool(reply.error) for reply in replies),
        time.perf_counter() - start,
        exit_code,
    )


async def _ask_once(port: int, body: bytes) -> Reply:
    connection = await Connection.open(port)
    try:
        return await ask(connection, body)
    except Broken as gone:
        return Reply(NO_ANSWER, 0, 0, 0, str(gone))
    finally:
        connection.close()
