"""Output layer and cross-entropy as one operation, a chunk of tokens at a time.

Logits are the largest tensor of a small model: for 2,048 tokens of GPT-2's vocabulary they take 412 MB in float32, and
a separate output layer and loss need four tensors of that size: logits, log-probabilities, and the gradient of each.
Here the logits of a chunk are replaced by their gradient, a few rows at a time that fit in a core's cache, and only the
gradient is kept, in the precision of the matrix products. The products, and the softmax in float32, are computed as
usual, so the result is the same. The idea is that of Liger-Kernel's fused linear cross-entropy (Hsu et al. 2024,
arXiv:2410.10989).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slm_data import IGNORE_INDEX

MAX_GRADIENT_BYTES = 256 * 2**20  # gradients of logits in memory at a time: an operand of the large matrix products
CACHE_BYTES = 2 * 2**20  # logits in float32 for passes over them: small enough for the second-level cache of a core
GPU_PIECE_BYTES = 128 * 2**20  # of the same on a GPU: copies in float32, large enough for all of its cores
PRODUCT_ROWS = 512  # of a product with the weight on a CPU; with 128 it takes 1.3 times as long


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy, in nats, of ``hidden @ weight.T`` against ``targets``, times ``scale``.

    ``hidden`` is ``[tokens, width]``, ``weight`` ``[vocabulary, width]``, ``targets`` ``[tokens]`` with IGNORE_INDEX
    where there is no loss, ``scale`` a scalar. Matrix products are computed in ``dtype``. Gradients are computed in
    the forward pass and returned once by the backward pass; a second backward pass raises RuntimeError.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        tokens, vocabulary = len(hidden), len(weight)
        exact = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        ctx.hidden = torch.empty_like(hidden) if needs_hidden else None
        ctx.weight = None
        low_weight = weight.to(dtype)
        group = max(1, min(tokens, MAX_GRADIENT_BYTES // (vocabulary * dtype.itemsize)))
        on_cpu = hidden.device.type == "cpu"
        chunk = PRODUCT_ROWS if on_cpu else group  # on a GPU smaller ones would only launch more kernels
        piece = max(1, (CACHE_BYTES if on_cpu else GPU_PIECE_BYTES) // (vocabulary * exact.itemsize))
        turn_into_gradient = _turn_into_gradient if on_cpu else _turn_into_gradient_in_few_passes
        buffer = torch.empty(group, vocabulary, dtype=dtype, device=hidden.device)
        for start in range(0, tokens, group):
            rows = slice(start, start + group)
            inputs = hidden[rows].to(dtype)
            gradients = buffer[: len(inputs)]
            for chunk_start in range(0, len(inputs), chunk):
                part = slice(chunk_start, chunk_start + chunk)
                logits = torch.mm(inputs[part], low_weight.t(), out=gradients[part])
                for some, expected in zip(logits.split(piece), targets[rows][part].split(piece), strict=True):
                    total += turn_into_gradient(some, expected, exact)
            if needs_hidden:
                ctx.hidden[rows] = gradients @ low_weight
            if needs_weight:
                product = gradients.t() @ inputs
                ctx.weight = product.to(weight.dtype) if ctx.weight is None else ctx.weight.add_(product)
        ctx.scale = scale  # applied last: in float16 the scaled gradients of single logits would underflow
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ctx.hidden, ctx.weight = ctx.hidden, ctx.weight, None, None
        if hidden is None and weight is None:
            raise RuntimeError("the fused loss hands over its gradients: backward runs once")
        factor = outer * ctx.scale
        scaled = [grad.mul_(factor.to(grad.dtype)) if grad is not None else None for grad in (hidden, weight)]
        return (*scaled, None, None, None)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Apply LinearCrossEntropy, with matrix products in the precision of autocast if that is enabled."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = LinearCrossEntropy.apply(hidden, weight, targets, scale, dtype)
    return loss


def _turn_into_gradient(logits: Tensor, targets: Tensor, exact: torch.dtype) -> Tensor:
    """Overwrite ``logits [tokens, vocabulary]`` with the gradient of their summed loss, and return that loss."""
    is_predicted = (targets != IGNORE_INDEX).to(exact)[:, None]
    target_ids = targets.clamp(min=0)[:, None]
    values = logits.to(exact)  # of float32 logits no copy is needed
    at_target, largest = values.gather(1, target_ids), values.amax(1, keepdim=True)
    exponentials = values.sub_(largest).exp_()
    sums = exponentials.sum(1, keepdim=True)
    loss = ((sums.log() + largest - at_target) * is_predicted).sum()
    gradient = exponentials.mul_(is_predicted / sums).scatter_add_(1, target_ids, -is_predicted)
    if gradient is not logits:
        logits.copy_(gradient)
    return loss


def _turn_into_gradient_in_few_passes(logits: Tensor, targets: Tensor, exact: torch.dtype) -> Tensor:
    """Do what ``_turn_into_gradient`` does in four passes instead of seven, for logits that are not in a cache.

    Results differ by rounding.
    """
    is_predicted = (targets != IGNORE_INDEX).to(exact)[:, None]
    target_ids = targets.clamp(min=0)[:, None]
    values = torch.log_softmax(logits.to(exact), 1)
    loss = -(values.gather(1, target_ids) * is_predicted).sum()
    values.exp_().scatter_add_(1, target_ids, -torch.ones_like(is_predicted))
    torch.mul(values, is_predicted, out=logits)  # rounds while it writes
    return loss
