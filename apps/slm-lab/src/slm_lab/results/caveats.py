"""Reasons why the figures of several runs are not fully comparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slm_lab.results.budgets import describe_budget
from slm_lab.runs.record import Run


def find_caveats(runs: Sequence[Run]) -> list[str]:
    """Return one sentence for each property in which ``runs`` differ although their figures depend on it."""
    return [sentence for value, sentence in _CAVEATS if len({value(run) for run in runs}) > 1]


_CAVEATS: tuple[tuple[Callable[[Run], object], str], ...] = (
    (lambda run: run.base, "The runs have different bases, so their quality before training differs too."),
    (
        # Records without a fingerprint are distinguished by the name of their dataset.
        lambda run: run.validation_fingerprint or run.dataset,
        "The runs were evaluated on different texts: compare the improvement of each, not the final values.",
    ),
    (
        lambda run: run.block_size,
        "The runs were evaluated in rows of different lengths: longer rows lower perplexity and bits per byte.",
    ),
    (describe_budget, "The runs had different budgets: better quality may only mean longer training."),
    (
        lambda run: (run.device, run.machine.get("processor"), run.machine.get("cores"), run.threads),
        "The runs had different devices or thread counts: their speed and peak memory are not comparable.",
    ),
)
