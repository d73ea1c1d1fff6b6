"""Abuse: five attacks, one after the other, while honest clients are served. All of them must get their answers."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.guarantees import Guarantee, format_counts, format_statuses
from slm_bench.serve.client.closed_loop import completion, percentile
from slm_bench.serve.client.honest import HonestClient, highest, slowest_health_check
from slm_bench.serve.client.metrics import TIMEOUT, wait_until_idle
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.servers.processes import Program, Server, running
from slm_bench.serve.servers.programs import slm_serve
from slm_bench.serve.setting import Setting

ATTACKS = {  # and how long each lasts, as a multiple of the time without an attack
    "stalled_readers": 2.0,
    "huge_headers": 1.0,
    "slow_requests": 1.5,
    "blocking_bodies": 1.0,
    "connection_flood": 1.0,
}
NO_ATTACK = "no attack"
CLIENTS = 16
NEW_TOKENS = 16
OPEN_FILES = 1024  # the usual limit of a process
PATIENCE = 1.0  # seconds that a health check may take
MEMORY_BYTES = 256e6  # that an attack may take
RECOVERY_TRIES = 20
HEAD_START = 2.0  # seconds of an attack before the honest clients begin
ATTACKER_SECONDS = 30.0  # in which the attacking process must end after its attack
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Phase:
    """What honest clients observed during one attack; field names are JSON keys."""

    attack: str
    latencies: tuple[float, ...]  # seconds of each answered request, from its first try
    statuses: dict[int, int]  # number of replies by HTTP status
    unanswered: int  # clients without a complete answer from the middle of the attack to its end
    slowest_health: float  # seconds of the slowest health check
    rss_before: int  # resident memory of the server in bytes
    rss_peak: int
    attacker: dict[str, int]  # what the attacking clients counted

    @property
    def p50(self) -> float:
        return percentile(self.latencies, 50) if self.latencies else float("inf")

    @property
    def p99(self) -> float:
        return percentile(self.latencies, 99) if self.latencies else float("inf")

    @property
    def memory(self) -> int:
        """Bytes that the server took during the attack."""
        return self.rss_peak - self.rss_before


@dataclass(frozen=True)
class Abuse:
    """All phases, the first without an attack; field names are JSON keys."""

    clients: int
    phases: tuple[Phase, ...]
    held: dict[str, int]  # sequences and pages in use at the end

    @property
    def guarantees(self) -> list[Guarantee]:
        attacks = [phase for phase in self.phases if phase.attack != NO_ATTACK]
        allowed = {200, TOO_MANY_REQUESTS}
        answered = all(phase.unanswered == 0 and set(phase.statuses) <= allowed for phase in attacks)
        statuses = "; ".join(f"{_title(phase)}: {format_statuses(phase.statuses)}" for phase in attacks)
        health = "; ".join(f"{_title(phase)} {phase.slowest_health:.2f} s" for phase in attacks)
        memory = "; ".join(f"{_title(phase)} {phase.memory / 1e6:.0f} MB" for phase in attacks)
        return [
            Guarantee("each honest client is answered during each attack", answered, statuses),
            Guarantee(
                f"health checks take less than {PATIENCE:g} s",
                all(phase.slowest_health < PATIENCE for phase in attacks),
                health,
            ),
            Guarantee(
                f"no attack takes {MEMORY_BYTES / 1e6:.0f} MB", all(p.memory < MEMORY_BYTES for p in attacks), memory
            ),
            Guarantee("after the attacks it holds nothing", not any(self.held.values()), format_counts(self.held)),
        ]


def measure(setting: Setting, prompts: Prompts) -> Abuse:
    """Start a server with the usual limit of open files, and attack it."""
    seconds = setting.sizes.abuse_seconds
    print(
        f"abuse: {len(ATTACKS)} attacks, {sum(ATTACKS.values()) * seconds + len(ATTACKS) * HEAD_START:.0f} s",
        file=sys.stderr,
    )
    program = _with_file_limit(slm_serve(setting, request_timeout=seconds))
    with running(program, setting.logs, setting.cores.server) as server:
        return asyncio.run(_measure(setting, server, prompts.take(CLIENTS)))


def compare(abuse: Abuse) -> Comparison:
    """Return latency and memory by attack."""
    rows = []
    for phase in abuse.phases:
        figures: dict[str, float | str] = {
            "requests": len(phase.latencies),
            "p50, s": phase.p50,
            "p99, s": phase.p99,
            "slowest health check, s": phase.slowest_health,
            "memory, MB": f"{phase.rss_before / 1e6:.0f} to {phase.rss_peak / 1e6:.0f}",
        }
        rows.append(Row(_title(phase), {}, figures))
    return Comparison(f"{abuse.clients} honest clients under attack", tuple(rows))


async def _measure(setting: Setting, server: Server, prompts: Sequence[str]) -> Abuse:
    program, seconds, places = server.program, setting.sizes.abuse_seconds, setting.capacity
    bodies = [completion(program.model, prompt, NEW_TOKENS, **program.request_fields) for prompt in prompts]
    await _phase(server, bodies, NO_ATTACK, 1, places)  # warms up
    phases = [await _phase(server, bodies, NO_ATTACK, seconds, places)]
    for attack, factor in ATTACKS.items():
        phases.append(await _phase(server, bodies, attack, seconds * factor, places))
    return Abuse(len(prompts), tuple(phases), await _recovered(server.port))


async def _phase(server: Server, bodies: Sequence[bytes], attack: str, seconds: float, places: int) -> Phase:
    """Serve honest clients for ``seconds``, in which the attack happens as well."""
    await _recovered(server.port)  # from the previous attack
    rss_before = server.rss()
    attacker = None if attack == NO_ATTACK else await _start_attack(server, attack, places, seconds)
    start = time.perf_counter()
    end = start + seconds
    slowest = asyncio.create_task(slowest_health_check(server.port, end))
    rss_peak = asyncio.create_task(highest(server.rss, end))
    clients = [HonestClient() for _ in bodies]
    await asyncio.gather(
        *(client.run(server.port, body, NEW_TOKENS, end) for client, body in zip(clients, bodies, strict=True))
    )
    return Phase(
        attack,
        tuple(latency for client in clients for latency in client.latencies),
        dict(sum((client.statuses for client in clients), Counter[int]())),
        sum(client.last_answer < start + seconds / 2 for client in clients),
        await slowest,
        rss_before,
        await rss_peak,
        await _attacker_counts(attacker) if attacker else {},
    )


async def _recovered(port: int) -> dict[str, int]:
    """Wait until nothing is in use after an attack; return how many sequences and pages still are."""
    for _ in range(RECOVERY_TRIES):
        try:
            return await asyncio.wait_for(wait_until_idle(port), 2 * TIMEOUT)
        except (BenchError, OSError, TimeoutError):  # it does not accept connections, or drops them
            await asyncio.sleep(1)
    return {"unreachable": 1}


async def _start_attack(server: Server, attack: str, places: int, seconds: float) -> asyncio.subprocess.Process:
    words = [attack, str(server.port), server.program.model, str(places), str(HEAD_START + seconds)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "slm_bench.serve.attacks", *words, stdout=asyncio.subprocess.PIPE
    )
    await asyncio.sleep(HEAD_START)
    return process


async def _attacker_counts(process: asyncio.subprocess.Process) -> dict[str, int]:
    """Return what the attacker printed. Raises BenchError if it failed."""
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), ATTACKER_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise BenchError("the attacking process did not end; the machine may be overloaded") from None
    if process.returncode:
        raise BenchError(f"the attacking process ended with exit code {process.returncode}; see its error above")
    counts: dict[str, int] = json.loads(printed)
    return counts


def _with_file_limit(program: Program) -> Program:
    """Give the server the usual limit of open files, which it may raise."""
    if sys.platform == "win32":
        return program
    return replace(program, command=["sh", "-c", f'ulimit -S -n {OPEN_FILES}; exec "$@"', "sh", *program.command])


def _title(phase: Phase) -> str:
    return phase.attack.replace("_", " ")
