"""Comparison of a merged model's logits with those of the adapter on its base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slm_adapters.errors import AdapterError
from slm_adapters.loading.load import Loaded

PROBE_TEXT = "Once upon a time a small model read 1,024 books. What it remembered of them was"
# Largest difference of logits, as a share of the largest logit, that rounding the weights to each dtype explains.
LOGIT_TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}
DEFAULT_CONTEXT = 1024  # tokens, for a model whose configuration does not state its context


@dataclass(frozen=True)
class LogitDifference:
    """Difference between the logits of a merged model and of the adapter on its base, over ``tokens`` positions."""

    largest: float  # absolute difference
    logit: float  # largest magnitude of a logit
    agreeing: int  # positions with the same greedy next token
    tokens: int

    @property
    def relative(self) -> float:
        """The largest difference as a share of the largest logit."""
        return self.largest / max(self.logit, 1e-30)


def probe_ids(loaded: Loaded, text: str) -> Tensor:
    """Return the tokens of ``text``, ``[1, tokens]``, cut to the model's context.

    Raises AdapterError for a text without tokens, and for a tokenizer with more tokens than the model.
    """
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, : _context(loaded.model)]
    if not ids.numel():
        raise AdapterError(f"the probe {text!r} has no tokens; give another --probe")
    embeddings: Any = loaded.model.get_input_embeddings()
    if (largest_id := int(ids.max())) >= (size := embeddings.num_embeddings):
        raise AdapterError(
            f"the tokenizer gives token {largest_id}, but the model has {size} tokens; use the model's own tokenizer"
        )
    return ids.long()


@torch.no_grad()
def probe_logits(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Return the logits of ``input_ids`` ``[1, tokens]`` as ``[tokens, vocabulary]``, in float32 on the CPU."""
    logits: Tensor = model(input_ids=input_ids.to(model.device), use_cache=False).logits[0]
    return logits.float().cpu()


def compare_logits(before: Tensor, after: Tensor) -> LogitDifference:
    """Compare logits ``[tokens, vocabulary]`` before and after a merge."""
    same = before.argmax(-1) == after.argmax(-1)
    return LogitDifference(float((before - after).abs().max()), float(before.abs().max()), int(same.sum()), len(same))


def _context(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or DEFAULT_CONTEXT)
