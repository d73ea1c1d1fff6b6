"""Engine benchmark: workloads for interleaved contenders, prefix caching, attention over pages, and llama.cpp."""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import Ratio, time_interleaved
from slm_bench.harness.processes import find_interpreter
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings, ResultFile
from slm_bench.kv.arguments import SECTIONS, check_flags
from slm_bench.kv.engine import attention, prefix
from slm_bench.kv.engine.contenders import (
    PAGE_SIZE,
    PAGED_ENGINE,
    Contender,
    ContinuousBatching,
    Generate,
    SlmEngine,
)
from slm_bench.kv.engine.llama.comparison import LlamaSizes, Setting, add_comparison
from slm_bench.kv.engine.vllm_process import Vllm
from slm_bench.kv.engine.workload import Sizes, Tokens, Workload, mixed_workload, uniform_workload
from slm_kv import DtypeChoice, WeightOptions, load, pack, set_threads

ROUNDS = 3
PACKED = "HF generate, linears packed by slm-kv"


@dataclass(frozen=True)
class Speed:
    """The speed of one contender on one workload; field names are JSON keys."""

    way: str  # name of the contender
    tokens_per_second: float
    ratio: Ratio  # how many times as fast the engine is
    same: int  # number of requests that got the same tokens as from generate one by one
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class WorkloadMeasurement:
    """The speeds of all contenders on one workload, the engine first; field names are JSON keys."""

    name: str
    description: str
    requests: int
    ways: tuple[Speed, ...]


def measure(arguments: argparse.Namespace, sizes: Sizes | None = None) -> ResultFile:
    """Load the model and measure. Raises BenchError if the workloads exceed the model's positions."""
    check_flags(arguments)
    disable_progress_bar()
    python = find_interpreter("vllm_python", arguments.vllm_python, ["vllm"])
    llama_python = find_interpreter("llama_python", arguments.llama_python, ["llama_cpp"])
    dtype = DtypeChoice(arguments.dtype)
    loaded = load(arguments.model_path, arguments.adapter_path, dtype=dtype, device=arguments.device)
    model: Any = loaded.model

    def tokenize(text: str) -> Tokens:
        return list(loaded.tokenizer(text)["input_ids"])

    settings = {
        "model": arguments.model_path,
        "adapter": arguments.adapter_path,
        "dtype": dtype.name,
        "weights": arguments.weights,
        "device": str(model.device),
        "threads": set_threads(model, arguments.threads),
        "rounds": arguments.rounds or ROUNDS,
        "page_size": PAGE_SIZE,
    }
    sections, findings = arguments.only or SECTIONS, Findings()
    if "engine" in sections:
        findings = _measure_engine(loaded, arguments.weight_options, settings, tokenize, sizes or Sizes(), python)
    if "llama" in sections:
        llama_sizes = LlamaSizes(tuple(arguments.requests or LlamaSizes.requests))
        setting = Setting(model, settings, arguments.weight_options.weights, llama_python)
        add_comparison(findings, setting, tokenize, llama_sizes)
    return new_result("kv --engine", settings, findings, model.device)


def _measure_engine(
    loaded: Any,
    options: WeightOptions,
    settings: dict[str, Any],
    tokenize: Callable[[str], Tokens],
    sizes: Sizes,
    python: str | None,
) -> Findings:
    """Measure the workloads, with vLLM if ``python`` is its interpreter, then prefixes and attention."""
    model = loaded.model
    works = [mixed_workload(tokenize, sizes), *(uniform_workload(tokenize, size, sizes) for size in (1, sizes.batch))]
    largest = _largest(model, works)
    left_out = {} if python else {"vLLM": "it is not installed; see --vllm_python"}
    if settings["adapter"]:
        python, left_out = None, {"vLLM": "it would ignore the adapter"}
    with ExitStack() as stack:
        one_by_one = Generate(model, 1)
        vllm = [_start_vllm(python, model, settings, largest, stack)] if python else []
        continuous = _continuous_batching(model, largest, [works[0], works[-1]], stack, left_out)
        lineups = _lineups(
            model,
            loaded.tokenizer,
            options,
            one_by_one,
            sizes.batch,
            largest,
            continuous,
            vllm,
            stack,
            left_out,
        )
        measured = [
            _measure(work, contenders, one_by_one, settings["rounds"])
            for work, contenders in zip(works, lineups, strict=True)
        ]
    if PAGED_ENGINE in left_out:
        return collect(measured, None, (), left_out)
    known = prefix.measure(model, tokenize, settings["rounds"])
    return collect(measured, known, attention.measure(model, sizes.attention), left_out)


def collect(
    workloads: Sequence[WorkloadMeasurement],
    known: prefix.PrefixMeasurement | None,
    pages: Sequence[attention.AttentionMeasurement],
    left_out: dict[str, str],
) -> Findings:
    """Combine the three measurements; the last two need pages."""
    findings = Findings({"workloads": workloads}, [_compare(work) for work in workloads], left_out=left_out)
    if known:
        findings.add("prefix", known, prefix.compare(known))
    if pages:
        findings.add("attention", pages, attention.compare(pages))
    return findings


def _largest(model: Any, works: Sequence[Workload]) -> tuple[int, int]:
    """Return the tokens of the longest request and the most requests of a workload. Raises BenchError."""
    longest = max(work.longest for work in works)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and longest > positions:
        raise BenchError(f"--engine needs {longest} positions and the model has {positions}; use another --model_path")
    return longest, max(len(work.new) for work in works)


def _lineups(
    model: Any,
    tokenizer: Any,
    options: WeightOptions,
    one_by_one: Contender,
    batch: int,
    largest: tuple[int, int],
    continuous: list[Contender],
    vllm: list[Vllm],
    stack: ExitStack,
    left_out: dict[str, str],
) -> tuple[list[Contender], ...]:
    """Return the contenders for the mixed requests, for a single one, and for a uniform batch; the engine first.

    If the model cannot use pages, ``left_out`` gets the reason.
    """
    pages = _slots(largest) // PAGE_SIZE
    engine = stack.enter_context(closing(SlmEngine(model, largest[1], pages, tokenizer, options)))
    if engine.reason:
        left_out[PAGED_ENGINE] = engine.reason
    batches = Generate(model, batch)
    packed: list[Contender] = []
    if model.device.type == "cpu":  # pack() has kernels for the CPU only
        packed_model = copy.deepcopy(model)
        pack(packed_model)
        packed = [Generate(packed_model, rows, PACKED) for rows in (1, batch)]
    return (
        [engine, one_by_one, batches, *continuous, *vllm],
        [engine, one_by_one, *packed[:1], *vllm],
        [engine, batches, *packed[1:], *continuous, *vllm],
    )


def _slots(largest: tuple[int, int]) -> int:
    """Slots in whole pages for the most requests of the longest kind."""
    longest, sequences = largest
    return sequences * -(-longest // PAGE_SIZE) * PAGE_SIZE


def _continuous_batching(
    model: Any, largest: tuple[int, int], trials: Sequence[Workload], stack: ExitStack, left_out: dict[str, str]
) -> list[Contender]:
    """Return transformers' continuous batching if it answers ``trials``; on some models without pages it fails."""
    try:
        with ExitStack() as attempt:
            contender = attempt.enter_context(closing(ContinuousBatching(model, _slots(largest))))
            for trial in trials:
                contender.answer(trial)
            stack.push(attempt.pop_all())
    except Exception as error:  # whatever transformers raises
        left_out[ContinuousBatching.name] = f"it fails on the model: {str(error).strip().splitlines()[0]}"
        return []
    return [contender]


def _start_vllm(python: str, model: Any, settings: dict[str, Any], largest: tuple[int, int], stack: ExitStack) -> Vllm:
    """Start vLLM on the model's own weights."""
    print("starting vLLM, which takes about a minute", file=sys.stderr)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    model.save_pretrained(folder)
    vllm = Vllm(python, folder, settings["dtype"], settings["threads"], *largest)
    return stack.enter_context(closing(vllm))


def _measure(work: Workload, contenders: list[Contender], one_by_one: Contender, rounds: int) -> WorkloadMeasurement:
    answers: dict[str, list[Tokens]] = {}

    def answer_by(contender: Contender) -> Callable[[], None]:
        return lambda: answers.update({contender.name: contender.answer(work)})

    title = f"{work.name}, {work.useful_tokens} tokens by {len(contenders)} contenders"
    times = time_interleaved({contender.name: answer_by(contender) for contender in contenders}, rounds, title)
    expected = answers.get(one_by_one.name) or one_by_one.answer(work)
    engine = times[contenders[0].name]
    speeds = []
    for name, seconds in times.items():
        same = sum(tokens == reference for tokens, reference in zip(answers[name], expected, strict=True))
        speed = work.useful_tokens / seconds.median
        speeds.append(Speed(name, speed, engine.speed_over(seconds), same, seconds.seconds))
    return WorkloadMeasurement(work.name, work.description, len(work.new), tuple(speeds))


def _compare(work: WorkloadMeasurement) -> Comparison:
    rows = []
    for speed in work.ways:
        figures: dict[str, Figure] = {
            "useful tokens/s": speed.tokens_per_second,
            "as generate has it": f"{speed.same} of {work.requests}",
        }
        rows.append(Row(speed.way, {} if speed is work.ways[0] else {"the engine is": speed.ratio}, figures))
    return Comparison(f"{work.name}: {work.description}", tuple(rows))
