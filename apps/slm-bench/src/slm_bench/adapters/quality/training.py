"""Training one adapter for a fixed number of steps, its evaluation, and the search for a learning rate.

Every method is trained on the same rows in the same order, for the same number of AdamW steps with a linearly decaying
learning rate and clipped gradients. A seed selects the rows, their order and the initial weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slm_bench.adapters.quality.run_store import Run
from slm_bench.adapters.quality.texts import Rows, Texts

IGNORED = -100  # the label of a token without a loss

Attach = Callable[[int], Any]  # from a seed to the base with a new adapter


@torch.no_grad()
def evaluate(model: Any, rows: Rows, bf16: bool = False, batch_tokens: int = 1024) -> float:
    """Return the loss in nats per predicted token."""
    model.eval()
    total, predicted, batch_rows = 0.0, 0, max(1, batch_tokens // rows.input_ids.shape[1])
    for ids, labels in zip(rows.input_ids.split(batch_rows), rows.labels.split(batch_rows), strict=True):
        count = int((labels[:, 1:] != IGNORED).sum())
        total += float(_loss(model, ids, labels, bf16)) * count
        predicted += count
    return total / predicted


def train(
    attach: Attach, texts: Texts, *, rate: float, seed: int, steps: int, batch_rows: int, bf16: bool = False
) -> Run:
    """Return the losses after one run; infinite ones if it diverged to NaN."""
    model = attach(seed).train()
    torch.manual_seed(seed)
    order = torch.randperm(len(texts.train))[: steps * batch_rows].split(batch_rows)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(order))
    for indices in order:
        _loss(model, texts.train.input_ids[indices], texts.train.labels[indices], bf16).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    held_out = _finite(evaluate(model, texts.held_out, bf16))
    return Run(held_out, None if texts.own is None else _finite(evaluate(model, texts.own, bf16)))


def search_rate(rates: Sequence[float], run: Callable[[float], float]) -> dict[float, float]:
    """Return losses by learning rate: of ``rates``, and beyond them while the best rate lies at the edge."""
    tried, untried = dict[float, float](), list(rates)
    while untried:
        tried |= {rate: run(rate) for rate in untried}
        best, low, high = min(tried, key=lambda rate: tried[rate]), min(tried), max(tried)
        untried = [2 * high] if best == high else [low / 2] if best == low else []
    return tried


def _loss(model: Any, input_ids: Tensor, labels: Tensor, bf16: bool) -> Tensor:
    with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=bf16):
        loss: Tensor = model(input_ids=input_ids, labels=labels, use_cache=False).loss
    return loss


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
