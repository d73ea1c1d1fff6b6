"""Auxiliary losses that a model adds to its language loss, such as that of the routers of a mixture of experts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slm_data import IGNORE_INDEX


class AuxiliaryLoss:
    """Makes an optimizer step count the auxiliary loss of a model once, however many micro-batches it has.

    The language loss of a micro-batch is divided by the tokens of the whole step, so those of all micro-batches add up
    to a mean. transformers adds the whole auxiliary loss to each. Here the auxiliary loss of a micro-batch is weighted
    by its share of the tokens of the step, so a step counts their mean over tokens. It is not the auxiliary loss of one
    large batch, which is not a sum over tokens: both are equal if the micro-batches use their experts alike.
    """

    def __init__(self, model: nn.Module, causal: Any):
        """Install on ``model``, which contains the causal language model ``causal`` or is the same."""
        self._language_loss: Tensor | None = None
        self._usual_loss = causal.loss_function
        causal.loss_function = self._loss
        model.register_forward_hook(self._weigh, with_kwargs=True)

    def _loss(self, *inputs: Any, **named: Any) -> Tensor:
        loss: Tensor = self._usual_loss(*inputs, **named)
        self._language_loss = loss
        return loss.clone()  # models add their auxiliary loss in place

    def _weigh(self, _: nn.Module, __: Any, inputs: dict[str, Any], outputs: Any) -> Any:
        """Replace the loss in the outputs of a forward pass that was given the tokens of its step."""
        language_loss, self._language_loss = self._language_loss, None
        step_tokens = inputs.get("num_items_in_batch")
        if language_loss is None or step_tokens is None:
            return
        predicted = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
        share = predicted / (step_tokens.to(predicted.device) if isinstance(step_tokens, Tensor) else step_tokens)
        outputs.loss = language_loss + share * (outputs.loss - language_loss)
