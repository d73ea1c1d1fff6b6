"""How well a model predicts rows: every token counts the same, whatever batch it came in.

Hugging Face's evaluation averages the means of batches, which weighs a short row as much as a long
one. Here negative log likelihoods are summed and divided once, over all processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from slm_data import IGNORE_INDEX as IGNORE


@dataclass(frozen=True)
class Evaluation:
    """``loss`` in nats a predicted token, ``perplexity`` its exponential; ``bits_per_byte`` of text,
    which compares models with different tokenizers; both depend on ``block_size``."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    block_size: int
    seconds: float

    def metrics(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}_{name}": value for name, value in asdict(self).items()}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    accelerator: Accelerator,
    *,
    tokens_per_byte: float,
    block_size: int,
) -> Evaluation:
    """Evaluate ``model`` on this process's share of ``batches`` (``input_ids``, ``labels`` ``[batch,
    tokens]``); the sums are added up over processes. The model's mode is restored."""
    start, was_training = time.perf_counter(), model.training
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        inputs = {name: value.to(accelerator.device) for name, value in batch.items()}
        labels = inputs.pop("labels")
        with accelerator.autocast():
            logits = model(**inputs, use_cache=False).logits
        totals += torch.stack(summed_nll(logits, labels)).double().cpu()
    model.train(was_training)
    nll, tokens = accelerator.reduce(totals.float() if accelerator.num_processes > 1 else totals).tolist()
    loss = nll / max(tokens, 1)
    bits = loss / math.log(2) * tokens_per_byte
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return Evaluation(loss, perplexity, bits, int(tokens), block_size, time.perf_counter() - start)


def summed_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log likelihood in nats, and the tokens it was summed over; position t predicts t + 1."""
    targets = labels[:, 1:]
    counted = targets != IGNORE
    chosen = logits[:, :-1][counted].float()  # only rows with a loss: padding costs nothing
    return nn.functional.cross_entropy(chosen, targets[counted], reduction="sum"), counted.sum()
