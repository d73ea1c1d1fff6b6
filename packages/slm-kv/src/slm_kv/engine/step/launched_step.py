"""A step whose model calls were started: its results may still be computed by the device.

Shapes: R rows of one item of work, D dimensions of a hidden state, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from slm_kv.engine.embeddings import EmbeddingSequence
from slm_kv.engine.scheduler import Work
from slm_kv.engine.step.model_runner import ModelRunner
from slm_kv.engine.step.step_results import Item, NanKeys, Wait

# Computes the rows of work: for each call of a model, its items and a tensor for each.
Run = Callable[[tuple[Work, ...]], Iterable[tuple[list[Work], list[Tensor]]]]
Failure = tuple[Work, Exception]


@dataclass(frozen=True)
class LaunchedStep:
    """A step that was started.

    Attributes:
        work: All of its work.
        results: Waits for the results of the items that generate or score.
        hidden: The items of embeddings, and their last hidden states [R, D].
        failures: The items for which the model failed.
    """

    work: tuple[Work, ...]
    results: Wait
    hidden: list[tuple[Work, Tensor]]
    failures: list[Failure]


def launch(
    work: tuple[Work, ...], runner: ModelRunner, results: Callable[[Sequence[Item], NanKeys], Wait]
) -> LaunchedStep:
    """Call the models for ``work``, and start to compute its ``results``. If a model fails, nothing is raised."""
    failures: list[Failure] = []
    embedding = tuple(item for item in work if isinstance(item.sequence, EmbeddingSequence))
    generating = tuple(item for item in work if item not in embedding) if embedding else work
    logits = _run(generating, runner.run, failures)
    hidden = _run(embedding, runner.run_hidden, failures)
    return LaunchedStep(work, results(logits, runner.nan_keys), hidden, failures)


def _run(work: tuple[Work, ...], run: Run, failures: list[Failure]) -> list[Item]:
    """Compute the rows of each item of work. If the model fails, each item is run alone to find the cause."""
    try:
        return [pair for items, rows in run(work) for pair in zip(items, rows, strict=True)] if work else []
    except Exception as error:
        if len(work) == 1:
            failures.append((work[0], error))
            return []
        return [pair for item in work for pair in _run((item,), run, failures)]
