"""Attention with dropout in training on a CPU.

torch's fast kernels for a CPU have no dropout. With it, ``scaled_dot_product_attention`` computes everything in float32
and draws a float64 for each weight of the attention, 16 % of a step of distilgpt2's shape. Here the products with
weights and values are in the precision of autocast, as in the fast kernel, one row of the batch at a time, and a weight
takes 15 random bits.

Shapes: B rows of the batch, H heads, T tokens, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import TrainingArguments

from slm_train.model.fast_dropout import VALUES, dropped_values, keep_bits, zero_dropped_


class DropoutAttention(TorchFunctionMode):
    """Replaces calls of ``scaled_dot_product_attention`` with dropout, within ``with DropoutAttention():``.

    Other calls are left alone: without dropout or gradients, with float masks, grouped heads, or fewer queries
    than keys, or not on a CPU.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs or {})
        return _attend(*args, **kwargs or {})


def dropout_attention(training: TrainingArguments) -> type[DropoutAttention] | None:
    """Return DropoutAttention for a run on a CPU, or None where it cannot be used.

    Activation checkpointing repeats forward passes outside of the context, and would draw other numbers there.
    """
    is_plain = not (training.gradient_checkpointing or training.fsdp or training.deepspeed or training.torch_compile)
    return DropoutAttention if is_plain and training.device.type == "cpu" else None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **named: Any,
) -> Tensor:
    scale = named.get("scale") or query.shape[-1] ** -0.5
    dropped = dropped_values(dropout_p)
    if not dropped or named.get("enable_gqa") or not _is_supported(query, key, value, attn_mask):
        usual: Tensor = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **named
        )
        return usual
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    tokens = query.shape[2]
    mask = torch.ones(1, tokens, tokens, dtype=torch.bool) if attn_mask is None else attn_mask[:, 0]
    with torch.autocast("cpu", enabled=False):
        inputs = [states.to(dtype) for states in (query, key, value)]
        output: Tensor = _Attention.apply(*inputs, mask.tril() if is_causal else mask, dropped, scale)
    return output


def _is_supported(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    is_plain = query.dim() == 4 and query.shape == key.shape == value.shape and query.device.type == "cpu"
    is_trained = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    per_batch = mask is None or (mask.dtype == torch.bool and mask.dim() == 4 and mask.shape[1] == 1)
    return is_plain and is_trained and per_batch


class _Attention(torch.autograd.Function):
    """Attention of ``query, key, value [B, H, T, D]`` where ``mask [B or 1, T, T]`` is True.

    A weight is dropped with probability ``dropped / VALUES``; a query that may see nothing has an output of zeros.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropped: int, scale: float
    ) -> Tensor:
        B, H, T, _ = query.shape
        weights_BHTT = query.new_empty(B, H, T, T)
        kept_BHTT = torch.empty_like(weights_BHTT)
        output = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)  # the layout that projections need
        ctx.scale, ctx.factor = scale, VALUES / (VALUES - dropped)
        for row in range(B):
            weights_BHTT[row] = _weights(query[row], key[row], mask[row % len(mask)], scale)
            kept_BHTT[row] = weights_BHTT[row]
            zero_dropped_(kept_BHTT[row], keep_bits(kept_BHTT[row].shape, dropped))
            output[row] = kept_BHTT[row] @ value[row] * ctx.factor
        ctx.save_for_backward(query, key, value, weights_BHTT, kept_BHTT)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        gradients = [torch.empty_like(states.transpose(1, 2)).transpose(1, 2) for states in saved[:3]]
        with torch.autocast("cpu", enabled=False):
            for row, outer in enumerate(gradient * ctx.factor):
                parts = _gradients(outer, ctx.scale, *(states[row] for states in saved))
                for whole, part in zip(gradients, parts, strict=True):
                    whole[row] = part
        return (*gradients, None, None, None)


def _weights(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Return the attention weights ``[H, T, T]`` of a row of the batch, in float32 or better."""
    exact = torch.promote_types(query.dtype, torch.float32)
    # No branch on values: --dry_run runs this without any. Equal weights, zeroed below, instead of 0 / 0.
    sees_any = mask.any(-1, keepdim=True)
    bias = torch.zeros(mask.shape, dtype=exact).masked_fill_(~mask & sees_any, -torch.inf)
    scores = (query.to(exact) * scale) @ key.to(exact).transpose(1, 2)
    return torch.softmax(scores.add_(bias), -1).mul_(sees_any.to(exact))


def _gradients(
    outer: Tensor, scale: float, query: Tensor, key: Tensor, value: Tensor, weights: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value ``[H, T, D]`` of a row of the batch."""
    exact = torch.promote_types(query.dtype, torch.float32)
    weighted = (outer.to(exact) @ value.to(exact).transpose(1, 2)).mul_(kept.to(exact))
    mean = weighted.sum(-1, keepdim=True)
    of_scores = weighted.addcmul_(weights.to(exact), mean, value=-1).to(query.dtype)
    of_query, of_key = of_scores @ key * scale, of_scores.transpose(1, 2) @ query * scale
    return of_query, of_key, kept.transpose(1, 2) @ outer
