"""Matching parameter counts: the size of a method that comes closest to LoRA of a given rank."""

import math
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from slm_bench.adapters.contenders import add_adapter
from slm_bench.adapters.methods import Configure
from slm_bench.adapters.quality.families import Family
from slm_train import count_parameters

SLACK = 1.03  # a method may have this many times LoRA's parameters: numbers of stages and block sizes are coarse
SMALLEST_SHARE = 0.5  # of LoRA's parameters; a method that reaches less is not comparable

# What PEFT raises for layers or sizes that a method does not take. Reports list the method and the error.
UNFIT = (ValueError, TypeError, NotImplementedError, AssertionError, RuntimeError, KeyError, UserWarning)
OTHER_BLOCK_SIZE = "Invalid `oft_block_size`"  # begin of PEFT's warning that OFT takes another block size
FEW_SIZES = 8  # up to here sizes in the middle may be unfit, such as blocks that do not divide a width


@dataclass(frozen=True)
class Learner:
    """A method of a certain size."""

    name: str
    configure: Configure
    trainable: int  # parameters
    rate: float


class Sizing:
    """Sizes of ``family`` on the layers ``targets`` of ``base``, by parameter count."""

    def __init__(self, base: Any, targets: Sequence[str], family: Family):
        self.base, self.targets, self.family = base, targets, family
        self.count = lru_cache(None)(self._count)
        self.reason = ""

    def learner(self, limit: int) -> Learner | None:
        """Return the method in its largest size of at most about ``limit`` parameters; None if none is comparable."""
        family, indices = self.family, self.fitting
        position = bisect_right(indices, limit * SLACK, key=self.count)
        if not position or self.count(indices[position - 1]) < SMALLEST_SHARE * limit:
            return None
        size, count = family.sizes[indices[position - 1]], self.count(indices[position - 1])
        return Learner(family.label(size), family.configure(size), int(count), family.rate)

    @cached_property
    def fitting(self) -> Sequence[int]:
        """Numbers of the sizes to choose from, ascending; of many, only the first ones fit the layers."""
        indices = range(len(self.family.sizes))
        return indices if len(indices) > FEW_SIZES else [index for index in indices if self.count(index) < math.inf]

    def count_of(self, size: Any) -> int:
        """Return the parameters of ``size``."""
        return int(self.count(self.family.sizes.index(size)))

    def why_not(self, limit: int) -> str:
        """Return why ``learner`` is None."""
        fits = self.fitting and self.count(self.fitting[0]) < math.inf
        return f"no size has about {limit:,} parameters" if fits else self.reason

    def _count(self, index: int) -> float:
        """Return the parameters of size number ``index``; infinity if it does not fit the layers."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=OTHER_BLOCK_SIZE)
                model = add_adapter(self.base, self.family.configure(self.family.sizes[index]), self.targets)
        except UNFIT as error:
            self.reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return math.inf
        return count_parameters(model).trainable
