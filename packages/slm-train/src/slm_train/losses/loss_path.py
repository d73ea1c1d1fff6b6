"""Observing what a model does between its output layer and the loss that it returns, whatever its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slm_train.verification.undisturbed import undisturbed

_TOKENS = 8
_TOKEN_COUNT = 5
_LOGIT_SIZE = 100.0  # large, so that a cap changes them
_LOSS = 2.0**-60  # in place of the loss: exact in float32 and bfloat16, and any auxiliary loss changes it


@dataclass(frozen=True)
class LossPath:
    """What a model does between its output layer and its loss.

    Attributes:
        keeps_logits: The loss function receives exactly what the output layer returned, and the labels.
        adds_to_loss: Something is added to what the loss function returned, such as an auxiliary loss.
        passes_token_count: ``num_items_in_batch`` reaches the loss function.
    """

    keeps_logits: bool = False
    adds_to_loss: bool = False
    passes_token_count: bool = False


@dataclass
class _Recorder:
    """Stands in for output layer and loss function: returns random logits and a fixed loss."""

    vocabulary: int | None  # None: the output layer is not replaced
    logits: list[Tensor] = field(default_factory=list)
    received: list[tuple[Tensor, Tensor, int, Any, dict[str, Any]]] = field(default_factory=list)

    def head(self, hidden: Tensor) -> Tensor:
        assert self.vocabulary
        generator = torch.Generator().manual_seed(len(self.logits))
        shape = (*hidden.shape[:-1], self.vocabulary)
        self.logits.append((_LOGIT_SIZE * torch.randn(shape, generator=generator)).to(hidden))
        return self.logits[-1]

    def loss(
        self, logits: Tensor, labels: Tensor, vocab_size: int, num_items_in_batch: Any = None, **more: Any
    ) -> Tensor:
        self.received.append((logits, labels, vocab_size, num_items_in_batch, more))
        return torch.tensor(_LOSS, device=logits.device)


def observe_loss_path(causal: Any, *, gives_token_count: bool = False) -> LossPath:
    """Run a causal language model, not a PeftModel, on a few tokens in training mode; it is left as it was.

    Args:
        causal: The model.
        gives_token_count: Whether to pass ``num_items_in_batch``, which some models do not accept.
    """
    head = causal.get_output_embeddings()
    recorder = _Recorder(getattr(head, "out_features", None))
    ids = torch.arange(_TOKENS, device=next(causal.parameters()).device)[None]
    count = {"num_items_in_batch": torch.tensor(_TOKEN_COUNT)} if gives_token_count else {}
    head_replaced = _replaced(head, "forward", recorder.head) if recorder.vocabulary else nullcontext()
    with undisturbed(causal, training=True), head_replaced, _replaced(causal, "loss_function", recorder.loss):
        loss = causal(input_ids=ids, labels=ids, use_cache=False, **count).loss
    if len(recorder.received) != 1:
        return LossPath()
    logits, labels, vocabulary, token_count, more = recorder.received[0]
    is_plain = len(recorder.logits) == 1 and vocabulary == recorder.vocabulary and not more
    return LossPath(
        keeps_logits=is_plain and _are_equal(logits, recorder.logits[0]) and _are_equal(labels, ids),
        adds_to_loss=float(loss) != _LOSS,
        passes_token_count=token_count is not None and float(token_count) == _TOKEN_COUNT,
    )


def is_cross_entropy(loss_function: Any, vocabulary: int) -> bool:
    """Return whether a loss function is the mean cross-entropy of the next token, in nats."""
    logits = _LOGIT_SIZE * torch.randn((1, _TOKENS, vocabulary), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(_TOKENS)[None]
    expected = nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
    return bool(torch.isclose(loss_function(logits, labels, vocabulary).float(), expected, rtol=1e-5))


def _are_equal(values: Tensor, expected: Tensor) -> bool:
    return values.shape == expected.shape and torch.equal(values.cpu().double(), expected.cpu().double())


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of ``owner``, which may come from its class."""
    usual, is_own = getattr(owner, name), name in vars(owner)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own or name not in vars(owner):  # not in vars: a property
            setattr(owner, name, usual)
        else:
            delattr(owner, name)
