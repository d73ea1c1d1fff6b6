"""The same prompts to several servers in turns: tokens a second, time to the first token, time a token."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slm_bench.serve.load import Reply, closed_loop, completion, percentile
from slm_bench.serve.prompts import Prompts
from slm_bench.serve.servers import Server
from slm_bench.serve.setting import Setting
from slm_bench.turns import Ratio
from slm_kv import KVError

TICK = 0.01  # seconds: the CPU's time of a process is counted in these


@dataclass(frozen=True)
class Turn:
    """One server under load once. Seconds: of the turn; to the first token and a token, by request; of the CPU."""

    seconds: float
    tokens: int
    first: tuple[float, ...]
    each: tuple[float, ...]
    server_cpu: float
    client_cpu: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Speed:
    """One server over all turns. ``ratio``: how many times as many tokens a second the first server gave."""

    server: str
    ratio: Ratio
    turns: tuple[Turn, ...]

    @property
    def tokens_per_second(self) -> float:
        return statistics.median(turn.speed for turn in self.turns)

    @property
    def tokens_per_cpu_second(self) -> float:
        """Of the server alone: what others on its core take is not in it."""
        return statistics.median(turn.tokens / turn.server_cpu for turn in self.turns)

    @property
    def client_share(self) -> float:
        """Of its core, that the load generator needed at most."""
        return max(turn.client_cpu / turn.seconds for turn in self.turns)

    def first(self, percent: float) -> float:
        """Seconds to the first token: this percentile of a turn's, the median of the turns."""
        return statistics.median(percentile(turn.first, percent) for turn in self.turns)

    def each(self) -> float:
        """Seconds a token after the first: the median of a turn, the median of the turns."""
        return statistics.median(statistics.median(turn.each) for turn in self.turns)


def measure(setting: Setting, servers: Sequence[Server], prompts: Prompts) -> list[Speed]:
    """All servers in turns, slm-serve first. Raises KVError where one does not answer."""
    found: dict[str, list[Turn]] = {server.name: [] for server in servers}
    for server in servers:
        load(setting, server, prompts.take(setting.concurrency))  # to warm up
    for turn in range(setting.rounds):
        asked = prompts.take(setting.requests)
        for server in in_order(servers, turn):
            found[server.name].append(load(setting, server, asked))
            print(f"turn {turn + 1}: {server.name} {found[server.name][-1].speed:.1f} tokens/s", file=sys.stderr)
    ours = found[servers[0].name]
    return [Speed(name, ratio(ours, turns), tuple(turns)) for name, turns in found.items()]


def load(setting: Setting, server: Server, prompts: Sequence[str], *, stream: bool = True) -> Turn:
    """One turn. Raises KVError for an answer that is none."""
    program = server.program
    more = dict(program.more)
    if not stream:
        more.pop("stream_options", None)
    bodies = [completion(program.model, prompt, setting.sizes.new, stream=stream, **more) for prompt in prompts]
    with server.awake():
        cpu, own, start = server.cpu_seconds(), time.thread_time(), time.perf_counter()
        replies = asyncio.run(closed_loop(server.port, bodies, setting.concurrency))
        seconds = time.perf_counter() - start
        own, cpu = time.thread_time() - own, server.cpu_seconds() - cpu
    check(server.name, replies)
    firsts, each = (tuple(getattr(reply, name) for reply in replies) for name in ("first", "each"))
    tokens = sum(reply.tokens for reply in replies)
    return Turn(seconds, tokens, firsts, each, max(cpu, TICK), own)


def check(name: str, replies: Sequence[Reply]) -> None:
    """Raises KVError for the first of ``replies`` that is no text."""
    for reply in replies:
        if reply.status != 200 or reply.error or not reply.tokens:
            raise KVError(f"{name} answered {reply.status}, {reply.tokens} tokens: {reply.error[:300]}")


def in_order(servers: Sequence[Server], turn: int) -> Iterator[Server]:
    """In alternating order, so that none has always the same before it."""
    return iter(servers if turn % 2 == 0 else servers[::-1])


def ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> Ratio:
    """Our speed over theirs: the median, least and largest of the turns."""
    ratios = [own.speed / other.speed for own, other in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
