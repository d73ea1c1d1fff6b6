"""Dropout on a CPU whose mask takes 16 random bits of an element.

torch draws a float64 for each element of a mask, with one thread, and keeps the mask in the type of the activations. On
distilgpt2's shape that was a fifth of a LoRA step. Here one 64-bit draw of the same generator serves four elements, and
the mask takes a byte, so a run that is resumed from the generator's state continues bit for bit as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_VALUES = 2**16  # of the random bits of an element


class FastDropout(nn.Dropout):
    """``nn.Dropout`` with a probability rounded to a multiple of 2**-16; what is kept is scaled by exactly that.

    Not on a CPU, in evaluation, and for probabilities that round to 0 or 1, it is ``nn.Dropout``.
    """

    def forward(self, input: Tensor) -> Tensor:
        dropped = round(self.p * _VALUES)
        if not self.training or input.device.type != "cpu" or not 0 < dropped < _VALUES:
            return super().forward(input)
        output: Tensor = _Dropout.apply(input, dropped)
        return output


class _Dropout(torch.autograd.Function):
    """Zeroes elements with probability ``dropped / 2**16`` and scales the others; saves a mask of one byte each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        keep = keep_mask(x.shape, dropped)
        ctx.save_for_backward(keep)
        ctx.scale = _VALUES / (_VALUES - dropped)
        return (x * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return gradient * keep * ctx.scale, None


def keep_mask(shape: torch.Size, dropped: int) -> Tensor:
    """Return a boolean CPU tensor that is False with probability ``dropped / 2**16``, from torch's generator."""
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: shape.numel()].view(shape)
    return bits >= dropped - _VALUES // 2


def use_fast_dropout(model: nn.Module) -> None:
    """Replace each ``nn.Dropout`` in ``model`` by FastDropout, in place. Weights and their names stay."""
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                fast = FastDropout(child.p)
                setattr(layer, name, fast.train(child.training))
