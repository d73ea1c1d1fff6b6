"""Evaluation by tokens: every token has the same weight, whatever the sizes of rows and batches.

transformers' evaluation averages the means of batches, in which a batch of short rows has the weight of one of long
rows. Here negative log likelihoods are summed over all processes and divided once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from slm_train.losses.evaluation_loss import EvaluationLoss

_LARGEST_EXPONENT = 700  # exp of more overflows a float


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation.

    Attributes:
        loss: Nats per predicted token.
        perplexity: exp(loss).
        bits_per_byte: Bits per byte of text, which makes models with different tokenizers comparable.
        tokens: Predicted tokens.
        block_size: Tokens in a row; loss and bits per byte depend on it.
        seconds: Duration.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    block_size: int
    seconds: float

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return the figures by the names of the Trainer: ``eval_loss`` and so on."""
        return {f"{prefix}_{name}": value for name, value in asdict(self).items()}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    accelerator: Accelerator,
    *,
    tokens_per_byte: float,
    block_size: int,
    loss: EvaluationLoss | None = None,
    on_batch: Callable[[], object] | None = None,
) -> Evaluation:
    """Evaluate ``model`` on this process's share of ``batches``, and combine the sums of all processes.

    Args:
        model: A causal language model; its training mode is restored afterwards.
        batches: ``input_ids`` and ``labels``, each ``[batch, tokens]``, and other inputs of the model.
        accelerator: For device, autocast and communication with the other processes.
        tokens_per_byte: Predicted tokens per byte of the evaluated text, for bits per byte.
        block_size: Tokens in a row, for the record.
        loss: Computes the loss of a batch; by default the one that fits the model.
        on_batch: Called after each batch.
    """
    loss = loss or EvaluationLoss.fitting(model)
    start, was_training = time.perf_counter(), model.training
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        inputs = {name: value.to(accelerator.device) for name, value in batch.items()}
        labels = inputs.pop("labels")
        with accelerator.autocast():
            nll, predicted = loss(model, inputs, labels)
        totals += torch.stack([nll, torch.tensor(predicted)])
        if on_batch:
            on_batch()
    model.train(was_training)
    total, tokens = accelerator.reduce(totals.float() if accelerator.num_processes > 1 else totals).tolist()
    mean = total / max(tokens, 1)
    bits = mean / math.log(2) * tokens_per_byte
    perplexity = math.inf if mean > _LARGEST_EXPONENT else math.exp(mean)  # of nan: nan
    return Evaluation(mean, perplexity, bits, int(tokens), block_size, time.perf_counter() - start)
