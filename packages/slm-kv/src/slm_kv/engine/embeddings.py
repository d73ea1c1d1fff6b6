"""Embeddings of texts: the mean of the model's last hidden states, normalised.

The hidden states are those after the final norm, which the output layer reads. Their mean is what llama.cpp computes
with ``--pooling mean``. vLLM takes the last token's by default, which suits models that were trained for it; in a model
that was not, that state is about the next token, and the mean tells texts apart better.

Shapes: T tokens, D dimensions of a hidden state.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from slm_kv.engine.requests import Handle
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.text_stream import TextStream
from slm_kv.errors import InvalidLogits, KVError
from slm_kv.pages.block_table import BlockTable
from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.sampler import TokenSampler

NO_TEXT = SamplingParams(max_new_tokens=1, seed=0)


class EmbeddingSequence(Sequence):
    """A prompt in the engine of which the hidden states are wanted, and no text."""

    def __init__(self, handle: Handle, prefix_root: bytes) -> None:
        super().__init__(handle, TokenSampler(NO_TEXT, (), 1), TextStream(None), prefix_root)
        self._sum_D: Tensor | None = None

    @property
    def reuses_prefix(self) -> bool:
        """False: the hidden states of all tokens are needed."""
        return False

    @property
    def may_draft(self) -> bool:
        """False: it has no next tokens."""
        return False

    def start(self, table: BlockTable) -> None:
        super().start(table)
        table.chained = False  # no other sequence waits for its prefix, which does not become known
        self._sum_D = None  # it may have been preempted

    def add_hidden_states(self, hidden_TD: Tensor) -> None:
        """Add those of the next T tokens."""
        sum_D = hidden_TD.float().sum(0)
        self._sum_D = sum_D if self._sum_D is None else self._sum_D + sum_D

    def finish(self) -> None:
        """Set the handle's embedding. Raises InvalidLogits if a hidden state is not finite."""
        assert self._sum_D is not None, "an embedding of no tokens"
        if not bool(self._sum_D.isfinite().all()):
            raise InvalidLogits("the model gave NaN or infinite hidden states; check its weights, or try dtype float32")
        self.handle.embedding = normalize(self._sum_D, dim=0).cpu()


@torch.inference_mode()
def last_hidden_states(model: Any, input_ids: Tensor, **options: Any) -> Tensor:
    """Return the hidden states after the final norm, [T, D], without computing logits.

    Args:
        model: A model of transformers with an output layer, without a PeftModel wrapper.
        input_ids: [1, T] or [T, 1].
        options: Those of the model's ``forward``.

    Raises:
        KVError: the model does not separate its output layer from the rest.
    """
    backbone = model.base_model
    known = inspect.signature(backbone.forward).parameters
    if "use_cache" in known or any(each.kind is each.VAR_KEYWORD for each in known.values()):
        options["use_cache"] = False
    hidden = None if backbone is model else getattr(backbone(input_ids, **options), "last_hidden_state", None)
    if hidden is None:
        raise KVError(f"{type(model).__name__} does not give its hidden states; it cannot compute embeddings")
    states_TD: Tensor = hidden.flatten(0, 1)
    return states_TD
