"""Flags that contradict each other, or a library, whatever the run is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slm_train.errors import UsageError

_OF_WORKERS = (
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_multiprocessing_context",
)


def check_combinations(values: Mapping[str, Any]) -> None:
    """Raise UsageError for the first contradiction."""
    _check_best_model(values)
    for name in _OF_WORKERS:
        if values[name] and not values["dataloader_num_workers"]:
            raise UsageError(f"--{name} needs processes that load data; give --dataloader_num_workers 1 or more")
    if values["debug"]:
        # transformers 5.19 computes abs() of boolean attention masks, and uses torch_xla without importing it.
        raise UsageError(
            f"--debug {values['debug'][0].value} is not supported: transformers fails on boolean attention masks and "
            "without torch_xla; leave it out"
        )


def _check_best_model(values: Mapping[str, Any]) -> None:
    saving, evaluating = str(values["save_strategy"]), str(values["eval_strategy"])
    if values["load_best_model_at_end"] and saving not in ("best", evaluating):
        raise UsageError(
            f"--load_best_model_at_end needs an evaluation for each checkpoint, but --save_strategy is {saving} and "
            f"--eval_strategy is {evaluating}; give the same for both, or --keep_best instead"
        )
    if saving == "best" and evaluating == "no":
        raise UsageError("--save_strategy best needs evaluations during training; give --eval_strategy steps or epoch")
