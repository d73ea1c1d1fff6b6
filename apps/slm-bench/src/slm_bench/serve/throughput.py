"""Throughput: the same prompts to several servers in alternating rounds."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import Ratio, interleave, paired_ratio
from slm_bench.serve.client.closed_loop import Reply, closed_loop, completion, percentile
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.servers.processes import Server
from slm_bench.serve.setting import Setting

CPU_TICK = 0.01  # seconds: the resolution of a process's CPU time on Linux


@dataclass(frozen=True)
class Turn:
    """Figures of one server in one round; field names are JSON keys."""

    seconds: float
    tokens: int
    first: tuple[float, ...]  # seconds to the first token, by request
    each: tuple[float, ...]  # seconds per token after the first, by request
    server_cpu: float  # seconds
    client_cpu: float  # seconds of the load generator

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class ServerSpeed:
    """Figures of one server in all rounds; field names are JSON keys."""

    server: str
    ratio: Ratio  # slm-serve's tokens per second over its own
    turns: tuple[Turn, ...]


def measure(setting: Setting, servers: Sequence[Server], prompts: Prompts) -> list[ServerSpeed]:
    """Measure all servers, slm-serve first. Raises BenchError if one does not answer."""
    for server in servers:
        load(setting, server, prompts.take(setting.concurrency))  # warms up
    batches = [prompts.take(setting.requests) for _ in range(setting.rounds)]

    def load_round(server: Server, number: int) -> Turn:
        return load(setting, server, batches[number])

    turns = interleave({server.name: partial(load_round, server) for server in servers}, setting.rounds, "throughput")
    ours = [turn.speed for turn in turns[servers[0].name]]
    return [
        ServerSpeed(name, paired_ratio(ours, [turn.speed for turn in theirs]), tuple(theirs))
        for name, theirs in turns.items()
    ]


def load(setting: Setting, server: Server, prompts: Sequence[str], *, stream: bool = True) -> Turn:
    """Send ``prompts`` and wait for all replies. Raises BenchError for a reply that is not a text."""
    program = server.program
    fields = {name: value for name, value in program.request_fields.items() if stream or name != "stream_options"}
    bodies = [completion(program.model, prompt, setting.sizes.new, stream=stream, **fields) for prompt in prompts]
    with server.resumed():
        server_cpu, client_cpu, start = server.cpu_seconds(), time.thread_time(), time.perf_counter()
        replies = asyncio.run(closed_loop(server.port, bodies, setting.concurrency))
        seconds = time.perf_counter() - start
        client_cpu, server_cpu = time.thread_time() - client_cpu, server.cpu_seconds() - server_cpu
    _check(server.name, replies)
    first, each = (tuple(getattr(reply, name) for reply in replies) for name in ("first", "each"))
    return Turn(seconds, sum(reply.tokens for reply in replies), first, each, max(server_cpu, CPU_TICK), client_cpu)


def _check(name: str, replies: Sequence[Reply]) -> None:
    for reply in replies:
        if reply.status != 200 or reply.error or not reply.tokens:
            raise BenchError(f"{name} answered {reply.status} with {reply.tokens} tokens: {reply.error[:300]}")


def compare(speeds: Sequence[ServerSpeed]) -> Comparison:
    """Return slm-serve's speed over that of each other server."""
    rows = []
    for speed in speeds:
        turns = speed.turns
        # Percentiles of the requests of a round, then the median of rounds.
        seconds = [median(percentile(turn.first, percent) for turn in turns) for percent in (50, 99)]
        seconds.append(median(median(turn.each) for turn in turns))
        figures = server_figures(median(turn.speed for turn in turns), *seconds)
        # By the server's CPU time, other load on its core does not count.
        figures["tokens/CPU s"] = median(turn.tokens / turn.server_cpu for turn in turns)
        figures["tokens"] = turns[0].tokens
        rows.append(Row(speed.server, {} if speed is speeds[0] else {"slm-serve is": speed.ratio}, figures))
    share = max(turn.client_cpu / turn.seconds for speed in speeds for turn in speed.turns)
    return Comparison("throughput", tuple(rows), f"the load generator took at most {share:.0%} of its core")


def server_figures(tokens_per_second: float, first: float, p99: float, each: float) -> dict[str, Figure]:
    """Return the figures of a server; ``first`` and ``p99``: seconds to the first token, ``each``: per further one."""
    milliseconds = {"first token p50, ms": first * 1000, "p99, ms": p99 * 1000, "a token, ms": each * 1000}
    return {"tokens/s": tokens_per_second, **milliseconds}
