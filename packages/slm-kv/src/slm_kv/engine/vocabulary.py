"""The token ids of a model, and prompts as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.errors import KVError

Prompt = str | Sequence[int]


class Vocabulary:
    """A model's vocabulary.

    Attributes:
        size: The number of token ids.
        end_ids: The ids that end a text: those of the model's generation config, else the tokenizer's.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.tokenizer = tokenizer
        # The weight's rows: PEFT's wrappers around embeddings have no num_embeddings.
        self.size: int = cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]
        self.end_ids = _end_ids(model, tokenizer)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return ``prompt`` as token ids.

        Raises:
            KVError: an id is outside the vocabulary, or the prompt is text and there is no tokenizer.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise KVError("the prompt is text and the engine has no tokenizer; give token ids, or a tokenizer")
            # verbose=False: transformers warns about texts longer than the model's context, which the engine refuses.
            ids = list(self.tokenizer(prompt, verbose=False)["input_ids"])
            if ids and max(ids) >= self.size:
                text = self.tokenizer.convert_ids_to_tokens(max(ids))
                raise KVError(f"the prompt has the token {text!r}, which is outside the vocabulary of {self.size}")
            return ids
        for token in prompt:
            if not isinstance(token, int) or not 0 <= token < self.size:
                raise KVError(f"token id {token!r} is outside the vocabulary of {self.size}")
        return list(prompt)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    generation_config: Any = model.generation_config
    ids = generation_config.eos_token_id if generation_config else None
    if ids is None:
        ids = tokenizer.eos_token_id if tokenizer else None
    return frozenset([ids] if isinstance(ids, int) else ids or [])
