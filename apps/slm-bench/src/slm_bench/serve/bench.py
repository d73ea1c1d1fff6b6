"""What ``slm-bench serve`` does: one model in one folder for all servers, and the measurements asked for."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from slm_bench.ending import sigterm_as_exception
from slm_bench.engine.vllm_way import python_with_vllm
from slm_bench.envelope import save
from slm_bench.output import console
from slm_bench.sealing import seal
from slm_bench.serve import disconnects, overhead, overload, peers, sigterm, throughput, vllm_client
from slm_bench.serve.cores import bound, two_cores
from slm_bench.serve.flags import MEASUREMENTS
from slm_bench.serve.prompts import Prompts
from slm_bench.serve.report import Found, comparisons, show
from slm_bench.serve.servers import Program, Server, running
from slm_bench.serve.setting import FULL, Setting, Sizes
from slm_kv import KVError, load


def run(given: argparse.Namespace, sizes: Sizes | None = None) -> int:
    """Measure, print and plot; 1 where a promise was not kept. Raises KVError for a user's mistake."""
    disable_progress_bar()
    found = measure(given, sizes or (FULL if given.full else Sizes()))
    show(found, console())
    if given.json:
        samples = asdict(found)
        settings = samples.pop("setting")
        save(seal("serve", settings, samples, comparisons(found), found.promises), given.json)
    if given.plot:
        from slm_bench.serve.plot import plot_serve

        print("plot: " + ", ".join(map(str, plot_serve(found, Path(given.plot)))))
    return 0 if all(promise.held for promise in found.promises) else 1


def measure(given: argparse.Namespace, sizes: Sizes) -> Found:
    """Load, start servers, and measure. Raises KVError for a user's mistake."""
    asked = given.only or MEASUREMENTS
    if given.plot and "throughput" not in asked:
        raise KVError("--plot shows the throughput, which --only leaves out")
    pythons = python_with_vllm(given.vllm_python), peers.python_for_transformers(given.transformers_python)
    loaded = load(given.model_path, dtype=getattr(torch, given.dtype), device="cpu")
    _check(given.model_path, loaded.model, sizes)
    cores = two_cores()
    with tempfile.TemporaryDirectory() as folder, bound(cores.client), sigterm_as_exception():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        logs = Path(folder, "logs")
        logs.mkdir()
        setting = Setting(
            given.model_path,
            folder,
            str(logs),
            given.dtype,
            given.rounds,
            given.requests,
            given.concurrency,
            cores,
            sizes,
        )
        return _measure(setting, loaded, asked, pythons)


def _measure(setting: Setting, loaded: Any, asked: tuple[str, ...], pythons: tuple[str | None, str | None]) -> Found:
    prompts = Prompts(loaded.tokenizer, setting.sizes.prompt)
    found = Found(setting.described)
    with ExitStack() as stack:
        ours = _start(peers.slm_serve(setting), setting, stack)
        if "throughput" in asked:
            _compare(found, setting, ours, prompts, pythons)
        if "overhead" in asked:
            found.overhead = overhead.measure(setting, ours, loaded, prompts)
        if "overload" in asked:
            found.overload = overload.measure(setting, ours, prompts)
        if "disconnects" in asked:
            found.disconnects = disconnects.measure(setting, ours, prompts)
    if "sigterm" in asked:
        found.sigterm = sigterm.measure(setting, prompts)
    return found


def _compare(
    found: Found, setting: Setting, ours: Server, prompts: Prompts, pythons: tuple[str | None, str | None]
) -> None:
    """The peers live only as long as they are compared."""
    with ExitStack() as stack:
        others = [_start(program, setting, stack) for program in _programs(setting, pythons)]
        found.speeds = throughput.measure(setting, [ours, *others], prompts)
        if pythons[0]:
            vllm = others[:1]
            found.vllm_client = vllm_client.measure(setting, [ours, *vllm], pythons[0])


def _programs(setting: Setting, pythons: tuple[str | None, str | None]) -> Iterator[Program]:
    vllm, transformers = pythons
    if vllm:
        yield peers.vllm(setting, vllm)
    else:
        print("vLLM is left out: it is not installed; see --vllm_python", file=sys.stderr)
    if transformers:
        yield peers.transformers_serve(setting, transformers, continuous=True)
        yield peers.transformers_serve(setting, transformers, continuous=False)
    else:
        needs = "pip install 'transformers[serving]' brings what it needs; see --transformers_python"
        print(f"transformers serve is left out: {needs}", file=sys.stderr)


def _start(program: Program, setting: Setting, stack: ExitStack) -> Server:
    print(f"starting {program.name}", file=sys.stderr)
    return stack.enter_context(running(program, setting.logs, setting.cores.server))


def _check(name: str, model: Any, sizes: Sizes) -> None:
    if hasattr(model, "peft_config"):
        raise KVError(f"{name} is an adapter, which the other servers cannot all load; merge it first")
    tokens, positions = sizes.prompt + sizes.new, model.config.max_position_embeddings
    if tokens > positions:
        raise KVError(f"requests of {tokens} tokens do not fit {name}, which has {positions} positions")
