"""The ranges of flags that take a number, as a table. The options of this package also check their own values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_train.errors import UsageError

_LARGEST = 2**31 - 1  # of whole numbers without a range of their own: more overflows a C int in some library
_MOST_PROCESSES = 256
_LARGEST_SEED = 2**32 - 1  # numpy's


@dataclass(frozen=True)
class Range:
    """The numbers from ``lowest`` to ``highest``, without those ends that are open.

    Attributes:
        lowest: The lower end.
        highest: The upper end.
        above: Whether the lower end is open.
        below: Whether the upper end is open.
        unset: A number outside the range that stands for "not set".
    """

    lowest: float
    highest: float = math.inf
    above: bool = False
    below: bool = False
    unset: int | None = None

    def __contains__(self, value: float) -> bool:
        """Return whether ``value`` is in the range; NaN and infinity never are."""
        return value == self.unset or (_is_finite(value) and not self._is_low(value) and not self._is_high(value))

    def requirement(self, value: float) -> str:
        """Return what ``must be`` is followed by for a value that is not in the range."""
        low = f"{'above' if self.above else 'at least'} {self.lowest:,.15g}"
        high = f"{'below' if self.below else 'at most'} {self.highest:,.15g}"
        unset = f", or {self.unset} for no limit" if self.unset is not None else ""
        if not _is_finite(value):
            return f"a finite number{unset}" if self is _ANY_NUMBER else f"a finite number {low}{unset}"
        if self.highest == 1:
            return f"{low} and {high}"
        return (high if self._is_high(value) else low) + unset

    def _is_low(self, value: float) -> bool:
        return value <= self.lowest if self.above else value < self.lowest

    def _is_high(self, value: float) -> bool:
        return value >= self.highest if self.below else value > self.highest


_COUNT = Range(1, _LARGEST)
_POSITIVE = Range(0, above=True)
_NOT_NEGATIVE = Range(0)
_SHARE_BELOW_1 = Range(0, 1, below=True)
_INTERVAL = Range(0, _LARGEST, above=True)  # a fraction of the run below 1
_SEED = Range(0, _LARGEST_SEED)
_ANY_NUMBER = Range(-_LARGEST, _LARGEST)

RANGES: dict[str, Range] = {
    # optimizer and schedule
    "learning_rate": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _SHARE_BELOW_1,
    "adam_beta2": _SHARE_BELOW_1,
    "adam_epsilon": _POSITIVE,  # with 0, a gradient of 0 becomes NaN: that of LoRA's A is 0 in the first step
    "max_grad_norm": _NOT_NEGATIVE,
    "label_smoothing_factor": _SHARE_BELOW_1,
    "neftune_noise_alpha": Range(0, 1e6),
    "warmup_steps": Range(0, _LARGEST),
    # length and size
    "num_train_epochs": Range(0, 1_000_000, above=True),
    "max_minutes": _POSITIVE,
    "max_steps": Range(1, _LARGEST, unset=-1),
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "vocab_size": Range(1, 2_000_000),  # the trainer of tokenizers reserves memory for all of them
    "lora_r": Range(1, 65_536),
    "lora_alpha": _POSITIVE,
    "lora_dropout": _SHARE_BELOW_1,
    # intervals and limits
    "logging_steps": _INTERVAL,
    "eval_steps": _INTERVAL,
    "save_steps": _INTERVAL,
    "eval_delay": Range(0, _LARGEST),
    "checkpoint_interval": _COUNT,
    "save_total_limit": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    # random numbers and processes
    "seed": _SEED,
    "data_seed": _SEED,
    "split_seed": _SEED,
    "threads": Range(1, 1024),
    "preprocessing_num_workers": Range(0, _MOST_PROCESSES),
    "dataloader_num_workers": Range(0, _MOST_PROCESSES),
    "dataloader_prefetch_factor": Range(1, 65_536),
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": Range(1, 10**8),
    "local_rank": Range(0, _LARGEST, unset=-1),
}


def check_ranges(values: Mapping[str, Any]) -> None:
    """Raise UsageError for the first number that is not in the range of its flag."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        allowed = RANGES.get(name, _ANY_NUMBER)
        if value not in allowed:
            raise UsageError(f"--{name} {_shown(value)} must be {allowed.requirement(value)}")


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # isfinite raises for whole numbers beyond a float


def _shown(value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"{'-' if value < 0 else ''}1e{len(str(abs(value))) - 1} or more"
    return f"{value:.15g}" if isinstance(value, float) else str(value)
