"""Logits of short random documents, computed as in training: in rows without an attention mask or a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slm_train.verification.undisturbed import undisturbed

MAX_TOKENS = 16  # of a probe, unless something in the model has a longer reach
# Rounding may change the choice of experts, which makes a large difference: a fault must show in each attempt.
ATTEMPTS = 3
_LAST_TOKENS = 64  # logits that are kept of a document: those of long rows would take a lot of memory
_WEIGHT_SIZE = 0.02  # standard deviation of the values that replace weights of zero
_FIRST_WEIGHTS = 64


@dataclass(frozen=True)
class Probe:
    """A model with random documents for it.

    Attributes:
        model: A causal language model, possibly a PeftModel.
        token_ids: Ids without a special meaning, ``[ids]``.
        autocast: Type of the matrix products; None to compute in the types of the weights.
        generator: Draws the documents.
    """

    model: Any
    token_ids: Tensor
    autocast: torch.dtype | None
    generator: torch.Generator

    @property
    def is_exact(self) -> bool:
        """Whether the model computes in float32 or better: no autocast, no 4-bit or 16-bit weights."""
        exact = (torch.float32, torch.float64)
        return self.autocast is None and all(parameter.dtype in exact for parameter in self.model.parameters())

    def document(self, tokens: int) -> Tensor:
        """Return ``tokens`` random token ids, ``[tokens]``."""
        return self.token_ids[torch.randint(len(self.token_ids), (tokens,), generator=self.generator)]

    def logits(self, *rows: Tensor) -> list[Tensor]:
        """Return the logits of rows of equal length, each one document: for each ``[tokens, vocabulary]``."""
        return [_last(row) for row in self._forward(torch.stack(rows))]

    def row_beside(self, row: Tensor, other: Tensor) -> Tensor:
        """Return all logits of ``row``, ``[tokens, vocabulary]``, computed in a batch with ``other``, as long."""
        return self._forward(torch.stack([row, other]))[0].float()

    def packed_logits(self, documents: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits of each document, ``[tokens, vocabulary]``, where all are packed into one row."""
        lengths = [len(document) for document in documents]
        positions = torch.cat([torch.arange(length) for length in lengths])
        logits = self._forward(torch.cat(list(documents))[None], position_ids=positions[None])
        return [_last(document) for document in logits[0].split(lengths)]

    def _forward(self, input_ids: Tensor, **inputs: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        on_device = {name: value.to(device) for name, value in inputs.items()}
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            logits: Tensor = self.model(input_ids=input_ids.to(device), **on_device, use_cache=False).logits
        return logits


def make_probe(model: Any, autocast: torch.dtype | None, seed: int) -> Probe:
    """Return a Probe of ``model`` that draws its documents with ``seed``."""
    vocabulary = model.config.get_text_config().vocab_size
    special = {value for name, value in integers(model.config.to_dict()) if "token" in name}
    ordinary = [token for token in range(vocabulary) if token not in special]
    return Probe(model, torch.tensor(ordinary or [0]), autocast, torch.Generator().manual_seed(seed))


@contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """Prepare ``model`` for a Probe, and restore it: no dropout, no gradients, no weights of zero.

    Weights of zero, such as output projections of a new model, would hide what a layer does.
    """
    zeros = [parameter for parameter in model.parameters() if _is_zero(parameter)]
    generator = torch.Generator().manual_seed(0)
    with undisturbed(model, training=False):
        try:
            for parameter in zeros:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _WEIGHT_SIZE)
            yield
        finally:
            for parameter in zeros:
                parameter.zero_()


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference at a token, relative to the size of its logits; both ``[tokens, vocabulary]``."""
    difference = (logits - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)
    return float(difference.max())


def integers(settings: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield name and value of each integer in nested ``settings``; the entries of a list have its name."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from integers(value, str(key))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from integers(value, name)
    elif isinstance(settings, int) and not isinstance(settings, bool):
        yield name, settings


def class_name(model: Any) -> str:
    """Return the name of the model's class, without the adapter around it."""
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def first_line(error: Exception) -> str:
    """Return type and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _last(logits: Tensor) -> Tensor:
    """Return the last logits of a document. Overflows in float16 are no difference between documents."""
    return logits[-_LAST_TOKENS:].float().nan_to_num(0.0, 0.0, 0.0)


@torch.no_grad()
def _is_zero(parameter: Tensor) -> bool:
    """Return whether all values are zero. The first ones decide for nearly all parameters, without reading the rest."""
    is_number = parameter.is_floating_point() and parameter.numel() > 0
    return is_number and not parameter.flatten()[:_FIRST_WEIGHTS].any() and not parameter.any()
