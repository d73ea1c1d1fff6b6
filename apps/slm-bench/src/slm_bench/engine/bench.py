"""What ``slm-bench kv --engine`` does: each workload by all ways in turns, then two parts of the engine alone."""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from slm_bench.engine import attention, prefix
from slm_bench.engine.report import Answered, Found, Speed, comparisons, show
from slm_bench.engine.vllm_way import Vllm, python_with_vllm
from slm_bench.engine.ways import PAGE_SIZE, Continuous, Generate, Ours, Way
from slm_bench.engine.workload import Sizes, Tokens, Workload, alike, mixed
from slm_bench.envelope import save
from slm_bench.output import console
from slm_bench.sealing import seal
from slm_bench.turns import in_turns
from slm_kv import KVError, load, pack, set_threads

ROUNDS = 3
PLOT = "outputs/kv_engine"


def run(given: argparse.Namespace, sizes: Sizes | None = None) -> int:
    """Measure, print and plot. Raises KVError for a user's mistake."""
    disable_progress_bar()
    found = measure(given, sizes or Sizes())
    show(found, console())
    if given.json:
        samples = asdict(found)
        settings, device = samples.pop("setting"), found.setting["device"]
        save(seal("kv --engine", settings, samples, comparisons(found), device=device), given.json)
    from slm_bench.plots import plot_engine

    print("plot: " + ", ".join(map(str, plot_engine(found, Path(given.plot or PLOT)))))
    return 0


def measure(given: argparse.Namespace, sizes: Sizes) -> Found:
    """Load and measure. Raises KVError for a user's mistake."""
    python = python_with_vllm(given.vllm_python)
    loaded = load(given.model_path, given.adapter_path, dtype=getattr(torch, given.dtype), device=given.device)
    model: Any = loaded.model

    def tokenize(text: str) -> Tokens:
        return list(loaded.tokenizer(text)["input_ids"])

    works = [mixed(tokenize, sizes), alike(tokenize, 1, sizes), alike(tokenize, sizes.batch, sizes)]
    _check(model, works)
    setting = {
        "model": given.model_path,
        "adapter": given.adapter_path,
        "dtype": given.dtype,
        "device": str(model.device),
        "threads": set_threads(model, given.threads),
        "rounds": given.rounds or ROUNDS,
        "page_size": PAGE_SIZE,
    }
    with ExitStack() as stack:
        one_by_one = Generate(model, 1)
        sides = _sides(setting, model, one_by_one, works, python, stack)
        answered = [
            Answered(
                work.name, work.description, len(work.new), tuple(_answer(work, ways, one_by_one, setting["rounds"]))
            )
            for work, ways in zip(works, sides, strict=True)
        ]
    known = prefix.measure(model, tokenize, setting["rounds"])
    return Found(setting, answered, known, attention.measure(model, sizes.attention))


def _sides(
    setting: dict[str, Any],
    model: Any,
    one_by_one: Way,
    works: Sequence[Workload],
    python: str | None,
    stack: ExitStack,
) -> tuple[list[Way], list[Way], list[Way]]:
    """The ways for the mixed requests, for one alone, and for a batch alike; the engine first."""
    longest, sequences = max(work.longest for work in works), max(len(work.new) for work in works)
    batch = len(works[-1].new)
    slots = sequences * -(-longest // PAGE_SIZE) * PAGE_SIZE
    ours = stack.enter_context(closing(Ours(model, sequences, slots // PAGE_SIZE)))
    continuous = stack.enter_context(closing(Continuous(model, slots)))
    vllm = [stack.enter_context(closing(way)) for way in _vllm(setting, model, (longest, sequences), python, stack)]
    batches = Generate(model, batch)
    packed: list[Way] = []
    if model.device.type == "cpu":
        plain = copy.deepcopy(model)
        pack(plain)
        packed = [Generate(plain, rows, "HF generate, linears packed by slm-kv") for rows in (1, batch)]
    return (
        [ours, one_by_one, batches, continuous, *vllm],
        [ours, one_by_one, *packed[:1], *vllm],
        [ours, batches, *packed[1:], continuous, *vllm],
    )


def _vllm(
    setting: dict[str, Any], model: Any, room: tuple[int, int], python: str | None, stack: ExitStack
) -> Iterator[Vllm]:
    """vLLM on the model's own weights; none where it is not installed, or would leave out the adapter.
    ``room``: tokens of the longest request, and requests at once."""
    if python is None or setting["adapter"]:
        why = "an adapter lies on the model" if setting["adapter"] else "it is not installed; see --vllm_python"
        print(f"vLLM is left out: {why}", file=sys.stderr)
        return
    print("starting vLLM, about a minute", file=sys.stderr)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    model.save_pretrained(folder)
    yield Vllm(python, folder, setting["dtype"], setting["threads"], *room)


def _answer(work: Workload, ways: Sequence[Way], one_by_one: Way, rounds: int) -> list[Speed]:
    """The ways in turns. The engine is the first."""
    print(f"{work.name}: {work.useful_tokens} tokens by {len(ways)} ways, {rounds + 1} turns", file=sys.stderr)
    found: dict[str, list[Tokens]] = {}

    def turn(way: Way) -> Callable[[], None]:
        return lambda: found.update({way.name: way.answer(work)})

    times = in_turns({way.name: turn(way) for way in ways}, rounds)
    expected = found.get(one_by_one.name) or one_by_one.answer(work)
    return [
        Speed(
            way.name,
            work.useful_tokens / times[way.name].median,
            times[ways[0].name].over(times[way.name]),
            sum(one == other for one, other in zip(found[way.name], expected, strict=True)),
            times[way.name].seconds,
        )
        for way in ways
    ]


def _check(model: Any, works: Sequence[Workload]) -> None:
    longest, positions = max(work.longest for work in works), model.config.max_position_embeddings
    if longest > positions:
        raise KVError(f"--engine asks for {longest} tokens of context and the model has {positions} positions")
