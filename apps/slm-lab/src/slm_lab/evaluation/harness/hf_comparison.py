"""The engine beside lm-eval's own ``hf`` model: times of both in turn, and whether their scores are equal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.huggingface import HFLM

from slm_kv import Engine
from slm_lab.evaluation.harness.engine_model import EngineModel
from slm_lab.evaluation.harness.run_tasks import TaskRunner, evaluate, read_scores
from slm_lab.evaluation.loading import OpenModel

ROUNDS = 3
BATCH_SIZES = (1, 8, 32)  # of the hf model, which is timed with the fastest


@dataclass(frozen=True)
class TaskComparison:
    """One task with both.

    Attributes:
        task: The task.
        seconds: The median time with the engine, without loading.
        hf_seconds: The median time with lm-eval's ``hf``.
        batch_size: Its batch size.
        difference: The largest difference of a score, relative where it is above 1.
    """

    task: str
    seconds: float
    hf_seconds: float
    batch_size: int
    difference: float

    @property
    def speed_up(self) -> float:
        """How many times faster the engine is."""
        return self.hf_seconds / self.seconds


def load_hf_model(model: OpenModel) -> Any:
    """Load the same weights as a model of transformers, in the same dtype: an engine's are in use."""
    import torch

    from slm_adapters import load

    loaded = load(model.member.path, dtype=getattr(torch, model.dtype), device=str(model.engine.device))
    return loaded.model


def compare_task(runner: TaskRunner, name: str, model: OpenModel, hf_model: Any) -> TaskComparison:
    """Run a task with both in turn, ``ROUNDS`` times, each time without cached prefixes."""

    def run_hf(batch_size: int) -> tuple[float, Mapping[str, Any]]:
        contender = HFLM(hf_model, tokenizer=model.tokenizer, batch_size=batch_size, max_length=model.max_length)
        return _timed(runner, name, contender)

    def run_engine() -> tuple[float, Mapping[str, Any]]:
        if isinstance(model.engine, Engine):
            model.engine.weights_changed()  # forgets prefixes
        return _timed(runner, name, EngineModel(model))

    run_engine()
    batch_size = min(BATCH_SIZES, key=lambda size: run_hf(size)[0])
    pairs = [(run_engine(), run_hf(batch_size)) for _ in range(ROUNDS)]
    own, hf = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    return TaskComparison(name, own, hf, batch_size, _difference(pairs[0][0][1], pairs[0][1][1]))


def _timed(runner: TaskRunner, name: str, model: Any) -> tuple[float, Mapping[str, Any]]:
    start = time.perf_counter()
    results = evaluate(model, runner.loaded[name], runner.options, bootstraps=0)
    return time.perf_counter() - start, results


def _difference(results: Mapping[str, Any], others: Mapping[str, Any]) -> float:
    own, hf = ({score.key: score.value for score in read_scores(each)} for each in (results, others))
    return max(abs(value - hf[key]) / max(1.0, abs(hf[key])) for key, value in own.items())
