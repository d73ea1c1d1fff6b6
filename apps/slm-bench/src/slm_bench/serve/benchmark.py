"""Server benchmark: one model for all servers, and the requested measurements."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from slm_bench.errors import BenchError
from slm_bench.harness.arguments import settings_from
from slm_bench.harness.processes import find_interpreter, sigterm_as_exception
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings, ResultFile
from slm_bench.serve import abuse, disconnects, overhead, overload, sigterm, throughput, vllm_load_generator
from slm_bench.serve.arguments import MEASUREMENTS
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.cores import bound, two_cores
from slm_bench.serve.servers import programs
from slm_bench.serve.servers.processes import Program, Server, running
from slm_bench.serve.setting import FULL, Setting, Sizes
from slm_kv import load

Pythons = tuple[str | None, str | None]  # interpreters for vLLM and for transformers serve

VLLM_MISSING = "it is not installed; see --vllm_python"
TRANSFORMERS_MISSING = "it needs pip install 'transformers[serving]'; see --transformers_python"


def measure(arguments: argparse.Namespace, sizes: Sizes | None = None) -> ResultFile:
    """Load the model, start servers and measure. Raises BenchError for unusable flags and for servers that fail."""
    disable_progress_bar()
    sizes = sizes or (FULL if arguments.full else Sizes())
    requested = arguments.only or MEASUREMENTS
    if arguments.plot and "throughput" not in requested:
        raise BenchError("--plot shows the throughput, which --only leaves out; add it to --only")
    pythons = (
        find_interpreter("vllm_python", arguments.vllm_python, ["vllm"]),
        find_interpreter("transformers_python", arguments.transformers_python, programs.TRANSFORMERS_MODULES),
    )
    loaded = load(arguments.model_path, dtype=getattr(torch, arguments.dtype), device="cpu")
    _check_model(arguments.model_path, loaded.model, sizes)
    cores = two_cores()
    with tempfile.TemporaryDirectory() as folder, bound(cores.client), sigterm_as_exception():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        logs = Path(folder, "logs")
        logs.mkdir()
        temporary = {"folder": folder, "logs": str(logs)}
        setting = settings_from(Setting, arguments, model=arguments.model_path, cores=cores, sizes=sizes, **temporary)
        return new_result("serve", setting.as_json(), _measure(setting, loaded, requested, pythons))


def _measure(setting: Setting, loaded: Any, requested: Sequence[str], pythons: Pythons) -> Findings:
    prompts = Prompts(loaded.tokenizer, setting.sizes.prompt)
    findings = Findings({"speeds": [], "vllm_client": []} | dict.fromkeys(MEASUREMENTS[1:]))
    with ExitStack() as stack:
        ours = _start(programs.slm_serve(setting), setting, stack)
        if "throughput" in requested:
            _compare_servers(findings, setting, ours, prompts, pythons)
        if "overhead" in requested:
            costs = overhead.measure(setting, ours, loaded, prompts)
            findings.add("overhead", costs, overhead.compare(costs))
        if "overload" in requested:
            flooded = overload.measure(setting, ours, prompts)
            findings.add("overload", flooded, guarantees=flooded.guarantees)
        if "disconnects" in requested:
            abandoned = disconnects.measure(setting, ours, prompts)
            findings.add("disconnects", abandoned, guarantees=abandoned.guarantees)
    if "abuse" in requested:
        attacked = abuse.measure(setting, prompts)
        findings.add("abuse", attacked, abuse.compare(attacked), guarantees=attacked.guarantees)
    if "sigterm" in requested:
        stopped = sigterm.measure(setting, prompts)
        findings.add("sigterm", stopped, guarantees=stopped.guarantees)
    return findings


def _compare_servers(findings: Findings, setting: Setting, ours: Server, prompts: Prompts, pythons: Pythons) -> None:
    """Start the peers, which run only while they are compared."""
    with ExitStack() as stack:
        peers = [_start(program, setting, stack) for program in _peers(findings, setting, pythons)]
        speeds = throughput.measure(setting, [ours, *peers], prompts)
        findings.add("speeds", speeds, throughput.compare(speeds))
        if pythons[0]:
            by_vllm = vllm_load_generator.measure(setting, [ours, *peers[:1]], pythons[0])
            comparison = vllm_load_generator.compare(by_vllm)
            findings.add("vllm_client", by_vllm, comparison, guarantees=by_vllm[0].guarantees)


def _peers(findings: Findings, setting: Setting, pythons: Pythons) -> Iterator[Program]:
    """Yield the servers to compare with, vLLM first."""
    vllm, transformers = pythons
    if vllm:
        yield programs.vllm(setting, vllm)
    else:
        findings.left_out["vLLM"] = VLLM_MISSING
    if transformers:
        yield programs.transformers_serve(setting, transformers, continuous=True)
        yield programs.transformers_serve(setting, transformers, continuous=False)
    else:
        findings.left_out["transformers serve"] = TRANSFORMERS_MISSING


def _start(program: Program, setting: Setting, stack: ExitStack) -> Server:
    print(f"starting {program.name}", file=sys.stderr)
    return stack.enter_context(running(program, setting.logs, setting.cores.server))


def _check_model(name: str, model: Any, sizes: Sizes) -> None:
    if hasattr(model, "peft_config"):
        raise BenchError(f"{name} is an adapter, which not all servers can load; merge it first")
    tokens, positions = sizes.prompt + sizes.new, model.config.max_position_embeddings
    if tokens > positions:
        raise BenchError(f"requests of {tokens} tokens do not fit {name}, which has {positions} positions")
