"""Scaling the losses of micro-batches so that their gradients add up to that of one large batch.

The loss of a step is the mean over all tokens that the step predicts, on all processes. Averaging the means of
micro-batches instead would give a token in a short batch more weight than one in a long batch; on rows of unequal
length the gradient was 27 % off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slm_data import IGNORE_INDEX


def step_mean(model_loss: Any, batch_tokens: int, step_tokens: int, ranks: int, *, accepts_token_count: bool) -> Tensor:
    """Return the part that a micro-batch contributes to the mean loss of its step, times ``ranks``.

    The factor ``ranks`` undoes the averaging of gradients over processes.

    Args:
        model_loss: Computes the loss of the micro-batch, in nats. It divides the sum by the keyword argument
            ``num_items_in_batch`` if that is given, else by the tokens of the micro-batch.
        batch_tokens: Predicted tokens of the micro-batch.
        step_tokens: Predicted tokens of the step, on all processes.
        ranks: Number of processes.
        accepts_token_count: Whether the model honours ``num_items_in_batch``. The Trainer multiplies such a loss by
            the number of processes itself.
    """
    if accepts_token_count:
        loss: Tensor = model_loss(num_items_in_batch=torch.tensor(step_tokens))
    else:
        loss = model_loss() * (batch_tokens * ranks / step_tokens)
    return loss


def token_scale(targets: Tensor, token_count: Any, device: torch.device) -> Tensor:
    """Return 1 / ``token_count``, or 1 / the predicted tokens in ``targets`` if it is None."""
    count = (targets != IGNORE_INDEX).sum() if token_count is None else token_count
    return 1 / torch.as_tensor(count, device=device, dtype=torch.float32)


def summed_loss(scaled_loss: Tensor, step_tokens: int, ranks: int) -> Tensor:
    """Undo ``step_mean``: return the summed loss of the micro-batch, in nats."""
    return scaled_loss.detach() * (step_tokens / ranks)
