"""``LoraSettings``: the values of a LoRA adapter, checked without torch or PEFT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slm_adapters.errors import AdapterError


@dataclass(frozen=True)
class LoraSettings:
    """Settings of a LoRA adapter, from which ``lora_config`` makes PEFT's ``LoraConfig`` for a model.

    Args:
        r: Rank.
        alpha: Updates are scaled by ``alpha / r``, or by ``alpha / sqrt(r)`` with ``use_rslora``.
        dropout: Dropout on the input of the LoRA layers.
        target_modules: Names of layers; empty or ``all-linear`` for every linear layer of the blocks.
        modules_to_save: Names of other modules that are trained as a whole and saved with the adapter.
        new_rows: Rows at the end of the embeddings, added by ``resize_embeddings``, that are trained and saved.
        use_rslora: Rank-stabilised LoRA (Kalajdzievski 2023, arXiv:2312.03732).
        use_dora: DoRA (Liu et al. 2024, arXiv:2402.09353): learn magnitude and direction separately.

    Raises:
        AdapterError: For values out of range, with the flag of slm-train.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.05
    target_modules: Sequence[str] = ()
    modules_to_save: Sequence[str] = ()
    new_rows: int = 0
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise AdapterError(f"--lora_r {self.r} must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise AdapterError(f"--lora_alpha {self.alpha} must be a number above 0")
        if not 0 <= self.dropout < 1:
            raise AdapterError(f"--lora_dropout {self.dropout} must be at least 0 and below 1")
