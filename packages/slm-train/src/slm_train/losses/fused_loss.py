"""Installing the fused output layer and loss on a model, where they give the same loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from slm_data import IGNORE_INDEX
from slm_train.losses.frozen_weights import FrozenWeights, frozen_weights
from slm_train.losses.linear_cross_entropy import linear_cross_entropy
from slm_train.losses.loss_normalization import token_scale
from slm_train.losses.loss_path import is_cross_entropy, observe_loss_path
from slm_train.model.dropout_attention import dropout_attention

_PROBE_TOKENS = 8


class FusedLoss:
    """Makes a causal language model compute its training loss by ``linear_cross_entropy``.

    Within ``with fused_loss():`` the output layer passes hidden states through, and the model's loss function receives
    them instead of logits. The model's own forward is still the one that is called: DDP hooks into it.
    """

    def __init__(self, model: Any, head: Any):
        self.head, self.is_active = head, False
        self.frozen: FrozenWeights | None = None  # copies of the weights, also of the head's
        self._usual_loss, self._usual_head = model.loss_function, head.forward
        model.loss_function, head.forward = self._loss, self._forward

    @classmethod
    def fitting(cls, model: nn.Module) -> FusedLoss | None:
        """Install the fused loss on ``model``, which may be a PeftModel.

        Returns None if the fused loss would differ, because the output layer is not plain, the logits are scaled or
        capped (Gemma 2), or something is added to the loss. Random logits in place of those of the model show that
        whatever its weights are; then both losses are compared on a few tokens.
        """
        any_model: Any = model
        causal = any_model.get_base_model() if hasattr(any_model, "get_base_model") else any_model
        head = causal.get_output_embeddings()
        # An exact type: a subclass (4-bit, LoRA) computes something else than hidden @ weight.T.
        if type(head) is not nn.Linear or head.bias is not None:
            return None
        path = observe_loss_path(causal)
        if not path.keeps_logits or path.adds_to_loss or not is_cross_entropy(causal.loss_function, head.out_features):
            return None
        fused = cls(causal, head)
        if not fused._agrees(causal):
            fused._remove(causal)
            return None
        return fused

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.is_active = True
        try:
            yield
        finally:
            self.is_active = False

    @torch.no_grad()
    def _agrees(self, model: Any) -> bool:
        """Return whether the model's own loss and the fused loss are equal for a few tokens."""
        was_training = model.training
        model.eval()
        ids = torch.arange(_PROBE_TOKENS, device=self.head.weight.device)[None]
        usual = model(input_ids=ids, labels=ids, use_cache=False).loss
        with self():
            fused = model(input_ids=ids, labels=ids, use_cache=False).loss
        model.train(was_training)
        return bool(torch.isclose(usual.float(), fused.float(), rtol=1e-5))

    def _remove(self, model: Any) -> None:
        model.loss_function, self.head.forward = self._usual_loss, self._usual_head

    def _forward(self, hidden: Tensor) -> Any:
        return hidden if self.is_active else self._usual_head(hidden)

    def _loss(
        self, logits: Tensor, labels: Tensor, vocab_size: int, num_items_in_batch: Any = None, **more: Any
    ) -> Any:
        """Replace the loss function of the model; ``logits`` are hidden states while active."""
        if not self.is_active:
            return self._usual_loss(logits, labels, vocab_size, num_items_in_batch=num_items_in_batch, **more)
        targets = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:].reshape(-1)
        scale = token_scale(targets, num_items_in_batch, logits.device)
        return linear_cross_entropy(logits.reshape(len(targets), -1), self._weight(), targets, scale)

    def _weight(self) -> Tensor:
        weight: Tensor = self.head.weight
        is_low = self.frozen is not None and self.frozen.is_autocast() and not weight.requires_grad
        return self.frozen.copy(weight) if self.frozen and is_low else weight


def loss_context(
    model: nn.Module, training: TrainingArguments, enabled: bool
) -> Callable[[], AbstractContextManager[None]]:
    """Return the context of forward passes in training: FusedLoss if ``enabled``, and what is faster."""
    fused = FusedLoss.fitting(model) if enabled and _is_possible(training) else None
    frozen = frozen_weights(model, training, [fused.head.weight] if fused else [])
    if fused:
        fused.frozen = frozen
    contexts = [context for context in (fused, frozen, dropout_attention(training)) if context]
    return partial(_entered, contexts) if contexts else nullcontext


@contextmanager
def _entered(contexts: Sequence[Callable[[], AbstractContextManager[Any]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield


def _is_possible(training: TrainingArguments) -> bool:
    """Return whether nothing else needs the logits, and every process has the whole output layer."""
    needs_logits = training.label_smoothing_factor or training.use_liger_kernel or training.torch_compile
    return not (needs_logits or training.fsdp or training.deepspeed)
