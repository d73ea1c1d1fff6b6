"""Weights in blocks of 32 inputs that share a scale: 8 bits (q8), 4 bits (q4), and 4 bits with a minimum (q41).

A block of 64 outputs and 32 inputs is stored in the order in which compiled code reads it: the steps, then 64 float16
scales, then for q41 64 float16 minima. The steps are unsigned; a weight is ``scale * (step - zero) + minimum``.

- q8: [8, 64, 4] bytes, inputs 4j + b of each output.
- q4, q41: [4, 64, 4] bytes, input 8j + b in the lower half and 8j + 4 + b in the upper one.

Shapes: O outputs, I inputs, B = O / 64 blocks (rounded up), G = I / 32 groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slm_kv.compiled.block_weights import BlockWeight
from slm_kv.optional_imports import import_optional

BlockFormat = Literal["q8", "q4", "q41"]
BLOCK = 64  # outputs in a block
GROUP = 32  # inputs that share a scale
ZERO: dict[BlockFormat, int] = {"q8": 128, "q4": 8, "q41": 0}
STEP_BYTES: dict[BlockFormat, int] = {"q8": BLOCK * GROUP, "q4": BLOCK * GROUP // 2, "q41": BLOCK * GROUP // 2}
SCALE_BYTES = 2 * BLOCK
OUTPUTS_AT_ONCE = 1024  # rounded at once: bounds the temporary memory


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight [O, I] in blocks.

    Attributes:
        format: The format of the blocks.
        outputs: O.
        inputs: I, a multiple of 32.
        blocks: [B, G, bytes of a block] uint8.
    """

    format: BlockFormat
    outputs: int
    inputs: int
    blocks: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return self.blocks.numel()

    def view(self) -> BlockWeight:
        """The blocks as compiled code reads them."""
        memory = self.blocks.flatten(1).numpy()
        return BlockWeight(self.format, memory, self.outputs, self.inputs, BLOCK, self.blocks)

    def scales(self, first: int = 0, end: int | None = None) -> Tensor:
        """The scales of blocks ``first`` to ``end`` - 1, [b, G, 64] float16."""
        start = STEP_BYTES[self.format]
        return self.blocks[first:end, :, start : start + SCALE_BYTES].view(torch.float16)

    def minima(self, first: int = 0, end: int | None = None) -> Tensor:
        """The minima of q41, [b, G, 64] float16."""
        return self.blocks[first:end, :, STEP_BYTES[self.format] + SCALE_BYTES :].view(torch.float16)

    def dense(self, first: int = 0, end: int | None = None) -> Tensor:
        """The weights of blocks ``first`` to ``end`` - 1: [64 b, I] float32, zero beyond O."""
        steps = _steps(self.blocks[first:end, :, : STEP_BYTES[self.format]], self.format)  # [b, G, 64, 32]
        minima = self.minima(first, end) if self.format == "q41" else None
        values = _values(steps, self.scales(first, end), minima, self.format)
        return values.transpose(1, 2).reshape(-1, self.inputs)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows ``ids`` [N] of the weight: [N, I] float32."""
        block, output = ids // BLOCK, ids % BLOCK
        packed = self.blocks[..., : STEP_BYTES[self.format]].unflatten(-1, (-1, BLOCK, 4))
        picked = packed[block, :, :, output].unsqueeze(3).flatten(2)  # [N, G, bytes of an output]
        steps = _steps(picked, self.format, 1)
        minima = self.minima()[block, :, output].unsqueeze(-1) if self.format == "q41" else None
        return _values(steps, self.scales()[block, :, output].unsqueeze(-1), minima, self.format).flatten(1)


def quantise_weight(weight_OI: Tensor, block_format: BlockFormat) -> QuantisedWeight:
    """Round a weight whose number of inputs is a multiple of 32.

    NaN stays NaN, and infinity becomes NaN.
    """
    outputs, inputs = weight_OI.shape
    assert inputs % GROUP == 0, "the inputs of a block-quantised layer come in groups of 32"
    group_bytes = STEP_BYTES[block_format] + SCALE_BYTES * (2 if block_format == "q41" else 1)
    blocks = torch.empty(-(-outputs // BLOCK), inputs // GROUP, group_bytes, dtype=torch.uint8)
    for start in range(0, outputs, OUTPUTS_AT_ONCE):
        some_OI = weight_OI[start : start + OUTPUTS_AT_ONCE].detach().float()
        padded_OI = nn.functional.pad(some_OI, (0, 0, 0, -len(some_OI) % BLOCK)).contiguous()
        packed = _pack_compiled(padded_OI, block_format)
        if packed is None:
            packed = _pack(padded_OI, block_format)
        blocks[start // BLOCK : start // BLOCK + len(packed)] = packed
    return QuantisedWeight(block_format, outputs, inputs, blocks)


def _pack_compiled(weight_OI: Tensor, block_format: BlockFormat) -> Tensor | None:
    """The blocks of a weight with a multiple of 64 outputs; None without numba, and for q4."""
    rounding: Any = import_optional("compiled.quantised.rounding")
    if rounding is None or block_format == "q4":
        return None
    weight, shape = weight_OI.numpy(), (len(weight_OI) // BLOCK, weight_OI.shape[1] // GROUP, BLOCK)
    scales, minima = torch.empty(shape), torch.empty(shape)
    if block_format == "q8":
        rounding.fit_scales(weight, scales.numpy())
        halves = [scales.half()]
        minima = halves[0].float() * -ZERO["q8"]
    else:
        rounding.fit_ranges(weight, scales.numpy(), minima.numpy())
        halves = [scales.half(), minima.half()]
        minima = halves[1].float()
    packed = torch.empty(*shape[:2], STEP_BYTES[block_format] + SCALE_BYTES * len(halves), dtype=torch.uint8)
    words = packed.numpy().view("uint32")
    rounding.pack_steps(weight, halves[0].float().numpy(), minima.numpy(), block_format == "q8", words)
    packed[..., STEP_BYTES[block_format] :] = torch.cat(halves, -1).view(torch.uint8)
    return packed


def _pack(padded_OI: Tensor, block_format: BlockFormat) -> Tensor:
    """The same by torch alone."""
    return arrange_blocks(*round_groups(padded_OI.unflatten(1, (-1, GROUP)), block_format), block_format)


def arrange_blocks(steps: Tensor, scale: Tensor, minimum: Tensor | None, block_format: BlockFormat) -> Tensor:
    """Arrange steps uint8 [O, G, 32], scale and minimum float16 [O, G, 1] as blocks [B, G, bytes] uint8."""
    padding = (0, 0, 0, 0, 0, -len(steps) % BLOCK)
    steps = nn.functional.pad(steps, padding, value=ZERO[block_format]).unflatten(0, (-1, BLOCK))  # [B, 64, G, 32]
    if block_format == "q8":
        packed = steps.unflatten(-1, (8, 4))
    else:
        lower, upper = steps.unflatten(-1, (4, 2, 4)).unbind(-2)
        packed = lower | (upper << 4)
    parts = [packed.permute(0, 2, 3, 1, 4).flatten(2)]
    for numbers in (scale, minimum):
        if numbers is not None:
            by_output = nn.functional.pad(numbers, padding).squeeze(-1).unflatten(0, (-1, BLOCK)).transpose(1, 2)
            parts.append(by_output.contiguous().view(torch.uint8))
    return torch.cat(parts, -1)


def round_groups(groups: Tensor, block_format: BlockFormat) -> tuple[Tensor, Tensor, Tensor | None]:
    """Round groups [..., 32] to steps uint8 [..., 32], scale and minimum float16 [..., 1]."""
    if block_format == "q8":
        scale = (groups.abs().amax(-1, keepdim=True) / 127).half()
        return _to_steps(groups, scale, 128, 255), scale, None
    return _round_with_minimum(groups) if block_format == "q41" else _round_symmetric(groups)


def _to_steps(groups: Tensor, scale: Tensor, zero: int, largest: int) -> Tensor:
    inverse = torch.where(scale == 0, 0.0, 1 / scale.float())
    return (groups * inverse).round_().add_(zero).clamp_(0, largest).nan_to_num_(0).to(torch.uint8)


# The end of the range that the number of largest magnitude is mapped to. A little clipping rounds the others less.
Q4_RANGES = (-8.0, -7.4, -6.9, 7.4)


def _round_symmetric(groups: Tensor) -> tuple[Tensor, Tensor, None]:
    """16 steps around zero. Of several scales, each refitted to its steps, the one with the least squared error."""
    extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    best_error = best_scale = None
    for end in Q4_RANGES:
        inverse = torch.where(extreme == 0, 0.0, end / extreme)
        steps = (groups * inverse).round_().clamp_(-8, 7)
        products, squares = (groups * steps).sum(-1, keepdim=True), (steps * steps).sum(-1, keepdim=True)
        scale = torch.where(squares == 0, extreme, products / squares)  # NaN and infinity stay visible
        error = -products * scale  # of the squared error, what depends on the scale
        if best_error is None or best_scale is None:
            best_error, best_scale = error, scale
        else:
            best_scale = torch.where(error < best_error, scale, best_scale)
            best_error = torch.minimum(error, best_error)
    assert best_scale is not None
    rounded = best_scale.half()
    return _to_steps(groups, rounded, 8, 15), rounded, None


Q41_SHRINKS = (1.0, 0.92, 0.85)  # of the range from the smallest to the largest number


def _round_with_minimum(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """16 steps from a minimum. Of several ranges, each refitted to its steps, the one with the least squared error."""
    low, high = groups.aminmax(dim=-1, keepdim=True)
    centre, mean = (low + high) / 2, groups.mean(-1, keepdim=True)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for shrink in Q41_SHRINKS:
        scale, minimum = shrink * (high - low) / 15, centre - shrink * (high - low) / 2
        steps = _steps_from(groups, scale, minimum)
        deviation = steps - steps.mean(-1, keepdim=True)
        squares = (deviation * deviation).sum(-1, keepdim=True)
        scale = torch.where(squares == 0, scale, (groups * deviation).sum(-1, keepdim=True) / squares).half()
        minimum = (mean - scale.float() * steps.mean(-1, keepdim=True)).half()
        error = (groups - _steps_from(groups, scale.float(), minimum.float()) * scale - minimum).square().sum(-1, True)
        if best is None:
            best = error, scale, minimum
        else:
            better = error < best[0]
            chosen = [torch.where(better, *pair) for pair in zip((error, scale, minimum), best, strict=True)]
            best = chosen[0], chosen[1], chosen[2]
    assert best is not None
    _, scale, minimum = best
    return _steps_from(groups, scale.float(), minimum.float()).nan_to_num_(0).to(torch.uint8), scale, minimum


def _steps_from(groups: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    return ((groups - minimum) * inverse).round_().clamp_(0, 15)


def _steps(packed: Tensor, block_format: BlockFormat, outputs: int = BLOCK) -> Tensor:
    """Unpack [..., bytes] to steps [..., outputs, 32] uint8."""
    parts = packed.unflatten(-1, (-1, outputs, 4))
    if block_format != "q8":
        parts = torch.stack((parts & 15, parts >> 4), -3).flatten(-4, -3)
    return parts.transpose(-3, -2).flatten(-2)


def _values(steps: Tensor, scale: Tensor, minimum: Tensor | None, block_format: BlockFormat) -> Tensor:
    values = (steps.float() - ZERO[block_format]) * scale.float().unsqueeze(-1)
    return values if minimum is None else values + minimum.float().unsqueeze(-1)
