"""Dropout on a CPU whose mask takes 15 random bits of an element.

torch draws a float64 for each element of a mask, with one thread, and multiplies by it. On distilgpt2's shape that was
a fifth of a LoRA step. Here one 64-bit draw of the same generator serves four elements, and the mask is applied to the
bits of the elements, so a run that is resumed from the generator's state continues bit for bit as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VALUES = 2**15  # of the random bits of an element
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


class FastDropout(nn.Dropout):
    """``nn.Dropout`` with a probability rounded to a multiple of 2**-15; what is kept is scaled by exactly that.

    Not on a CPU, in evaluation, and for probabilities that round to 0 or 1, it is ``nn.Dropout``.
    """

    def forward(self, input: Tensor) -> Tensor:
        dropped = dropped_values(self.p)
        if not self.training or input.device.type != "cpu" or not dropped:
            return super().forward(input)
        output: Tensor = _Dropout.apply(input, dropped)
        return output


class _Dropout(torch.autograd.Function):
    """Zeroes elements with probability ``dropped / VALUES`` and scales the others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        keep = keep_bits(x.shape, dropped)
        ctx.save_for_backward(keep)
        ctx.scale = VALUES / (VALUES - dropped)
        return zero_dropped_(x * ctx.scale, keep)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return zero_dropped_(gradient * ctx.scale, keep), None


def dropped_values(p: float) -> int:
    """Return how many of ``VALUES`` random values drop an element with probability ``p``; 0 for none or all."""
    return round(p * VALUES) % VALUES


def keep_bits(shape: torch.Size, dropped: int) -> Tensor:
    """Return an int16 CPU tensor: 0 with probability ``dropped / VALUES``, else -1; from torch's generator."""
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: shape.numel()].view(shape)
    # In place and without a comparison, because torch converts between types far more slowly. The sign of the
    # difference is that of a value to keep; with 16 bits the difference could overflow.
    return bits.bitwise_right_shift_(1).neg_().add_(dropped - 1 - VALUES // 2).bitwise_right_shift_(15)


def zero_dropped_(x: Tensor, keep: Tensor) -> Tensor:
    """Zero the elements of ``x`` where ``keep``, from ``keep_bits``, is 0, in place."""
    bits = _BITS[x.element_size()]
    x.view(bits).bitwise_and_(keep.to(bits))
    return x


def use_fast_dropout(model: nn.Module) -> None:
    """Replace each ``nn.Dropout`` in ``model`` by FastDropout, in place. Weights and their names stay."""
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                fast = FastDropout(child.p)
                setattr(layer, name, fast.train(child.training))
