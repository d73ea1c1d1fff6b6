"""The metrics of a comparison: how each is read from a run, formatted and ranked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slm_lab.formatting import format_bytes, format_duration, format_percent
from slm_lab.results.run_result import RunResult


@dataclass(frozen=True)
class Metric:
    """A row of the table, below the heading ``group``.

    ``better`` is None where no value is better than another. ``varies`` says whether a run with another seed, or on a
    busy machine, gives another value.
    """

    key: str
    label: str
    group: str
    format: Callable[[float], str]
    value: Callable[[RunResult], float | None]
    better: Literal["lower", "higher"] | None = "lower"
    varies: bool = False


def _trainable_percent(result: RunResult) -> float | None:
    trainable, total = result.run.trainable_parameters, result.run.total_parameters
    return 100 * trainable / total if trainable is not None and total else None


METRICS = (
    # First, because no figure of quality can be judged without it.
    Metric("trainable", "trainable parameters", "parameters", "{:,.0f}".format,
           lambda result: result.run.trainable_parameters),
    Metric("share", "share of parameters", "parameters", format_percent, _trainable_percent),
    Metric("bits_before", "bits per byte before", "quality", "{:.4f}".format,
           lambda result: result.run.bits_per_byte("before"), None),
    Metric("bits_after", "bits per byte after", "quality", "{:.4f}".format,
           lambda result: result.run.bits_per_byte("after"), varies=True),
    Metric("perplexity_before", "perplexity before", "quality", "{:,.2f}".format,
           lambda result: result.run.perplexity("before"), None),
    Metric("perplexity_after", "perplexity after", "quality", "{:,.2f}".format,
           lambda result: result.run.perplexity("after"), varies=True),
    Metric("weights", "weights", "memory", format_bytes, lambda result: result.run.weight_bytes),
    Metric("gradients", "gradients", "memory", format_bytes, lambda result: result.run.gradient_bytes),
    Metric("optimizer", "optimizer state", "memory", format_bytes, lambda result: result.run.optimizer_bytes),
    Metric("peak", "peak memory", "memory", format_bytes, lambda result: result.run.peak_bytes, varies=True),
    Metric("tokens_per_second", "tokens per second", "speed", "{:,.0f}".format,
           lambda result: result.run.tokens_per_second, "higher", varies=True),
    Metric("seconds", "training time", "speed", format_duration, lambda result: result.train_seconds, varies=True),
    Metric("shipped", "weight files", "disk", format_bytes, lambda result: result.weight_files),
    Metric("checkpoint", "checkpoint", "disk", format_bytes, lambda result: result.checkpoint),
)  # fmt: skip
METRIC_BY_KEY = {metric.key: metric for metric in METRICS}

# Reports show the range of these metrics. The others are the same for all seeds, or follow from these.
SHOWN_WITH_RANGE = {"bits_after", "perplexity_after", "peak", "tokens_per_second"}
