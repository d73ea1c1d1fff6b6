"""slm-kv's engine next to llama.cpp on the same weights: decoding, prompts, perplexity, memory and start."""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import interleave, paired_ratio, spread_of
from slm_bench.harness.result_file import Findings
from slm_bench.kv.bandwidth import memory_bandwidth
from slm_bench.kv.engine.llama.gguf_file import find_fault, write_gguf
from slm_bench.kv.engine.llama.processes import Limits, SlmProcess, TimedWorker, start_llama
from slm_bench.kv.engine.llama.read_bytes import read_bytes
from slm_bench.kv.engine.llama.timeline import Timeline
from slm_bench.kv.engine.workload import Sizes, Tokens, Workload, endless_texts, uniform_workload

LLAMA = "llama.cpp"
DECODING = "decoding"
FORMATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "q8": "Q8_0", "q4": "Q4_0"}  # llama.cpp's by ours


@dataclass(frozen=True)
class LlamaSizes:
    """The requests of this comparison."""

    requests: tuple[int, ...] = (1, 8, 16)  # at the same time
    prompt: int = 512
    new: int = 64
    scored: tuple[int, int] = (4, 512)  # texts for perplexity, and tokens of each

    def within(self, positions: int) -> "LlamaSizes":
        """Return sizes with shorter prompts and texts, if the model has fewer positions."""
        scored = self.scored[0], min(self.scored[1], positions - 1)
        return replace(self, prompt=min(self.prompt, positions - self.new), scored=scored)

    @property
    def longest(self) -> int:
        """Tokens of the longest request: one token follows a scored text."""
        return max(self.prompt + self.new, self.scored[1] + 1)


class Setting(NamedTuple):
    """What is compared, and how."""

    model: Any  # in memory; slm-kv's process loads the same by itself
    settings: dict[str, Any]  # of the benchmark: model, adapter, dtype, threads, rounds
    weights: str | None  # q8 or q4, to compare in that format only
    python: str | None  # an interpreter with llama_cpp


@dataclass(frozen=True)
class FormatMeasurement:
    """One program with its weights in one format; field names are JSON keys."""

    name: str
    format: str
    perplexity: float
    megabytes: float  # resident, after all requests
    start_seconds: float  # CPU time until ready
    read_bytes: float  # of weights and cache for one token of a single request
    timelines: dict[int, list[Timeline]]  # timed rounds by number of requests
    prompt: int  # tokens of each prompt

    def speeds(self, requests: int) -> dict[str, list[float]]:
        """Tokens per second in each round; decoding is left out if there was no time when all requests decode."""
        rounds = self.timelines[requests]
        speeds = {
            "prompts": [requests * self.prompt / timeline.all_started for timeline in rounds],
            "overall": [timeline.count / timeline.total for timeline in rounds],
        }
        decoding = [timeline.decode_speed for timeline in rounds if timeline.decode_speed]
        return {DECODING: decoding} | speeds if len(decoding) == len(rounds) else speeds


Pair = tuple[FormatMeasurement, FormatMeasurement]  # slm-kv and llama.cpp


def add_comparison(findings: Findings, setting: Setting, tokenize: Callable[[str], Tokens], sizes: LlamaSizes) -> None:
    """Measure both programs format by format, or note in ``findings`` why not. Raises BenchError if one fails."""
    if reason := find_reason(setting):
        findings.left_out[LLAMA] = reason
        return
    sizes = sizes.within(setting.model.config.max_position_embeddings)
    pairs = measure(setting, tokenize, sizes)
    findings.add("llama", pairs, *compare(pairs, sizes, setting.settings["threads"]))


def find_reason(setting: Setting) -> str | None:
    """Return why llama.cpp is left out; None if it can take part."""
    if setting.python is None:
        return "it is not installed; see --llama_python"
    if setting.settings["adapter"]:
        return "it would ignore the adapter"
    if setting.model.device.type != "cpu":
        return "it is compared on CPUs only"
    if find_spec("gguf") is None:
        return "the package gguf, which writes its files, is not installed; install it with pip install gguf"
    return find_fault(setting.model)


def measure(setting: Setting, tokenize: Callable[[str], Tokens], sizes: LlamaSizes) -> list[Pair]:
    """Measure both programs in child processes, two at a time."""
    texts = endless_texts(tokenize)
    rows = [next(texts)[: sizes.scored[1]] for _ in range(sizes.scored[0])]
    works = [
        uniform_workload(tokenize, requests, Sizes(prompt=sizes.prompt, new=sizes.new)) for requests in sizes.requests
    ]
    limits = Limits(setting.settings["threads"], sizes.longest, max(sizes.requests))
    formats = [setting.weights] if setting.weights else [setting.settings["dtype"], "q8", "q4"]
    return [_measure_format(setting, format, works, rows, limits) for format in formats]


def _measure_format(
    setting: Setting, format: str, works: Sequence[Workload], rows: list[Tokens], limits: Limits
) -> Pair:
    print(f"starting slm-kv and llama.cpp with weights in {format}", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        path = folder / f"{FORMATS[format]}.gguf"
        write_gguf(setting.model, path, FORMATS[format])
        log = folder / "slm-kv.log"
        settings = setting.settings
        slm = stack.enter_context(closing(SlmProcess(settings["model"], settings["dtype"], format, log, limits)))
        assert setting.python is not None
        llama = stack.enter_context(closing(start_llama(setting.python, path, limits)))
        answers = [_answer(work, (slm, llama), settings["rounds"]) for work in works]

        def describe(worker: TimedWorker, name: str) -> FormatMeasurement:
            timelines = {len(work.new): answer[worker.name] for work, answer in zip(works, answers, strict=True)}
            return _describe(worker, name, setting.model, rows, works[0], timelines)

        return describe(slm, format), describe(llama, FORMATS[format])


def _answer(work: Workload, workers: Sequence[TimedWorker], rounds: int) -> dict[str, list[Timeline]]:
    """Return the timed rounds of each worker; the first round warms up."""

    def answer_by(worker: TimedWorker) -> Callable[[int], Timeline]:
        return lambda _: worker.answer(work)

    answers = interleave({worker.name: answer_by(worker) for worker in workers}, rounds + 1, work.name)
    return {name: timelines[1:] for name, timelines in answers.items()}


def _describe(
    worker: TimedWorker,
    format: str,
    model: Any,
    rows: list[Tokens],
    single: Workload,
    timelines: dict[int, list[Timeline]],
) -> FormatMeasurement:
    prompt = len(single.prompts[0])
    return FormatMeasurement(
        name=worker.name,
        format=format,
        megabytes=worker.memory(),  # before the perplexity is measured
        perplexity=math.exp(worker.loss(rows)),
        start_seconds=worker.start_seconds,
        read_bytes=read_bytes(model, format, prompt + single.new[0] // 2),
        timelines=timelines,
        prompt=prompt,
    )


def compare(pairs: Sequence[Pair], sizes: LlamaSizes, threads: int) -> list[Comparison]:
    """Return a table for each number of requests, and one of perplexity, memory and start."""
    bandwidth = memory_bandwidth(torch.device("cpu"))
    prompts = f"prompts of {sizes.prompt} tokens, {sizes.new} new"
    tables = [
        Comparison(
            f"{LLAMA}, {_count(requests, 'request')}, {_count(threads, 'thread')}: {prompts}",
            tuple(row for pair in pairs for row in _speed_rows(pair, requests, bandwidth)),
            note=f"Read bandwidth: {bandwidth / 1e9:.1f} GB/s." if requests == 1 else "",
        )
        for requests in sizes.requests
    ]
    footprints = tuple(_footprint(measured) for pair in pairs for measured in pair)
    return [*tables, Comparison(f"{LLAMA}: perplexity, memory, CPU time to start", footprints)]


def _speed_rows(pair: Pair, requests: int, bandwidth: float) -> tuple[Row, Row]:
    slm, llama = (measured.speeds(requests) for measured in pair)
    ratios = {f"{name}, slm-kv is": paired_ratio(slm[name], llama[name]) for name in slm if name in llama}
    rows = []
    for measured, speeds in zip(pair, (slm, llama), strict=True):
        medians = {name: spread_of(values)[0] for name, values in speeds.items()}
        figures: dict[str, Figure] = {f"{name}, tokens/s": value for name, value in medians.items()}
        if requests == 1 and DECODING in medians:
            figures["of read bandwidth"] = f"{100 * medians[DECODING] * measured.read_bytes / bandwidth:.0f} %"
        rows.append(Row(measured.name, ratios if measured is pair[1] else {}, figures))
    return rows[0], rows[1]


def _footprint(measured: FormatMeasurement) -> Row:
    figures: dict[str, Figure] = {
        "perplexity": f"{measured.perplexity:.3f}",
        "MB resident": measured.megabytes,
        "s of CPU to start": measured.start_seconds,
    }
    return Row(measured.name, {}, figures)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
