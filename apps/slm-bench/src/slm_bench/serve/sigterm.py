"""SIGTERM with requests in flight: the server must answer all of them and then exit with code 0."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.errors import BenchError
from slm_bench.harness.guarantees import Guarantee, format_statuses
from slm_bench.serve.client.closed_loop import Reply, completion, send_or_fail
from slm_bench.serve.client.http_client import Connection
from slm_bench.serve.client.metrics import wait_until
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.servers.processes import Server, running
from slm_bench.serve.servers.programs import slm_serve
from slm_bench.serve.setting import Setting

DRAIN_SECONDS = 600.0


@dataclass(frozen=True)
class Sigterm:
    """What was observed; field names are JSON keys."""

    requests: int
    in_flight: int  # unanswered when the signal was sent
    statuses: dict[int, int]  # number of replies by HTTP status
    unfinished: int  # replies with fewer tokens than requested
    seconds: float  # from the signal to the end of the process
    exit_code: int | None  # None if the process did not end

    @property
    def guarantees(self) -> list[Guarantee]:
        answered = self.statuses == {200: self.requests} and self.unfinished == 0 and self.in_flight > 0
        ended = f"{self.exit_code} after {self.seconds:.1f} s"
        observed = f"{self.in_flight} in flight; {format_statuses(self.statuses)}; {self.unfinished} cut short"
        return [
            Guarantee("all requests in flight at SIGTERM are answered whole", answered, observed),
            Guarantee("after SIGTERM the exit code is 0", self.exit_code == 0, ended),
        ]


def measure(setting: Setting, prompts: Prompts) -> Sigterm:
    """Start a server whose queue holds all requests, and stop it. Raises BenchError if it does not accept them."""
    requests = setting.sizes.in_flight
    print(f"sigterm: {requests} requests", file=sys.stderr)
    program = slm_serve(setting, max_queue=requests, drain_timeout=DRAIN_SECONDS, request_timeout=DRAIN_SECONDS)
    with running(program, setting.logs, setting.cores.server) as server:
        return asyncio.run(_measure(setting, server, prompts.take(requests)))


async def _measure(setting: Setting, server: Server, prompts: Sequence[str]) -> Sigterm:
    new, program = setting.sizes.new, server.program
    bodies = [completion(program.model, prompt, new, **program.request_fields) for prompt in prompts]
    tasks = [asyncio.create_task(_send_once(server.port, body)) for body in bodies]
    prompt_tokens = len(prompts) * setting.sizes.prompt
    if not await wait_until(server.port, lambda metrics: metrics["slm_prompt_tokens_total"] >= prompt_tokens):
        raise BenchError(f"slm-serve did not accept {len(prompts)} requests in time; the machine may be overloaded")
    in_flight, start = sum(not task.done() for task in tasks), time.perf_counter()
    server.terminate()
    replies = await asyncio.gather(*tasks)
    exit_code = await asyncio.to_thread(server.wait, DRAIN_SECONDS)
    return Sigterm(
        len(prompts),
        in_flight,
        dict(Counter(reply.status for reply in replies)),
        sum(not reply.is_complete(new) for reply in replies),
        time.perf_counter() - start,
        exit_code,
    )


async def _send_once(port: int, body: bytes) -> Reply:
    connection = await Connection.open(port)
    try:
        return await send_or_fail(connection, body)
    finally:
        connection.close()
