"""Running tasks of lm-eval on models."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import evaluator
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from slm_lab.errors import LabError
from slm_lab.evaluation.harness.code_checks import check_code, use_sandbox
from slm_lab.evaluation.harness.engine_model import EngineModel
from slm_lab.evaluation.harness.task_files import task_manager
from slm_lab.evaluation.loading import OpenModel
from slm_lab.evaluation.result_file import TaskRecord
from slm_lab.runs.evaluations import Score

BOOTSTRAPS = 100_000  # as in lm-eval


@dataclass(frozen=True)
class TaskOptions:
    """How tasks are run.

    Attributes:
        limit: Examples of each task; None for all.
        num_fewshot: Examples with their answers before each question; None for the task's own number.
        chat_template: Whether questions are asked as a chat.
        include_path: A folder with more tasks.
        allow_code: Whether local tasks may run code, and the model's answers may be run as code.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    include_path: Path | None = None
    allow_code: bool = False


class TaskRunner:
    """Loads tasks once, and runs them on several models.

    Raises:
        LabError: A task is unknown, or runs code.
    """

    def __init__(self, names: Sequence[str], options: TaskOptions) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.options = options
        self._manager: TaskManager = task_manager(names, options.include_path)
        if not options.allow_code:
            check_code(self._manager, names)
            use_sandbox()
        self.loaded: dict[str, Any] = {}

    def load(self, name: str) -> None:
        """Load a task and its data.

        Raises:
            LabError: The data cannot be downloaded or read, or the task is invalid.
        """
        try:
            with _quiet():
                loaded = self._manager.load([name])
        except Exception as error:  # whatever datasets, the hub, a file of the task or its templates raise
            raise LabError(f"task {name} cannot be loaded: {_first_sentence(error)}") from error
        for task in loaded["tasks"].values():
            self._set_fewshot(task)
        self.loaded[name] = loaded

    def settings(self, name: str) -> dict[str, Any]:
        """What the results depend on, besides the model and how it is loaded."""
        configs = {key: task.dump_config() for key, task in self.loaded[name]["tasks"].items()}
        text = json.dumps(configs, sort_keys=True, default=handle_non_serializable)
        chosen = {"limit": self.options.limit, "num_fewshot": self.options.num_fewshot}
        return chosen | {
            "chat_template": self.options.chat_template,
            "definition": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        }

    def run(self, name: str, model: OpenModel, settings: Mapping[str, Any]) -> TaskRecord:
        """Run a loaded task on a model.

        Raises:
            LabError: The task does not suit the model, or its metrics fail.
        """
        start = time.perf_counter()
        results = evaluate(EngineModel(model), self.loaded[name], self.options)
        versions = {str(value) for value in results["versions"].values() if value is not None}
        return TaskRecord(
            name,
            settings,
            read_scores(results),
            sum(counts["effective"] for counts in results["n-samples"].values()),
            {
                "version": ", ".join(sorted(versions)),
                "seconds": round(time.perf_counter() - start, 2),
            },
        )

    def _set_fewshot(self, task: Any) -> None:
        """Set the number of examples as lm-eval does: a task that sets 0 keeps it."""
        own = task.get_config("num_fewshot")
        if self.options.num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=self.options.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)


def evaluate(model: Any, loaded: Any, options: TaskOptions, *, bootstraps: int = BOOTSTRAPS) -> Mapping[str, Any]:
    """Run loaded tasks with lm-eval's own seeds, and return its results.

    Raises:
        LabError: The task does not suit the model, or its metrics fail.
    """
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    try:
        with _quiet():
            results: Mapping[str, Any] = evaluator.evaluate(
                lm=model,
                task_dict=loaded,
                limit=options.limit,
                bootstrap_iters=bootstraps,
                log_samples=False,
                apply_chat_template=options.chat_template,
                fewshot_as_multiturn=options.chat_template,
                confirm_run_unsafe_code=options.allow_code,
            )
    except LabError:
        raise
    except Exception as error:  # of the task's templates, filters and metrics
        raise LabError(f"task {', '.join(loaded['tasks'])} failed: {_first_sentence(error)}") from error
    return results


def read_scores(results: Mapping[str, Any]) -> list[Score]:
    """The numbers in lm-eval's results, of each task and group."""
    scores = []
    for task, values in {**results["results"], **results.get("groups", {})}.items():
        better, counts = results["higher_is_better"].get(task, {}), results["n-samples"].get(task)
        filters = {key.partition(",")[2] for key in values if "," in key}
        for key, value in values.items():
            metric, _, answer_filter = key.partition(",")
            if not answer_filter or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{answer_filter}")
            name = metric if len(filters) == 1 else f"{metric},{answer_filter}"
            error = float(stderr) if isinstance(stderr, int | float) else None
            examples = counts["effective"] if counts else None
            scores.append(Score(task, name, float(value), error, better.get(metric), examples))
    return scores


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's and datasets' progress bars and prints."""
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval would fork for bootstraps, beside the engine's threads
    with open(os.devnull, "w", encoding="utf-8") as devnull, redirect_stdout(devnull), redirect_stderr(devnull):
        yield


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
