"""The token ids of a model, and prompts as token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.errors import KVError
from slm_kv.linear.packed_embedding import PackedEmbedding

Prompt = str | Sequence[int]


class Vocabulary:
    """A model's vocabulary.

    Attributes:
        size: The number of token ids.
        end_ids: The ids that end a text: those of the model's generation config, else the tokenizer's.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.tokenizer = tokenizer
        embedding: Any = model.get_input_embeddings()
        # The weight's rows: PEFT's wrappers around embeddings have no num_embeddings.
        packed = isinstance(embedding, PackedEmbedding)
        self.size: int = embedding.num_embeddings if packed else embedding.weight.shape[0]
        self.end_ids = end_of_text_ids(model, tokenizer)
        self._special_ids = self.end_ids | _special_ids(model, tokenizer)

    def ordinary_ids(self, count: int = 64) -> list[int]:
        """Up to ``count`` token ids from all over the vocabulary, without those that mean more than text."""
        size = min(self.size, len(self.tokenizer)) if self.tokenizer else self.size
        ids = [size * index // count for index in range(count)]
        # Prime steps order them, so that neighbours are not alike.
        mixed = list(dict.fromkeys(ids[(29 * index + 7) % count] for index in range(count)))
        return [token for token in mixed if token not in self._special_ids] or [0]

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


def end_of_text_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The ids that end a text: those of the model's generation config, else the tokenizer's."""
    generation_config: Any = model.generation_config
    ids = generation_config.eos_token_id if generation_config else None
    if ids is None:
        ids = tokenizer.eos_token_id if tokenizer else None
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def _special_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The ids of padding, begin and end of text, images and the like, in the configs and the tokenizer."""
    configs = [model.config.to_dict(), model.config.get_text_config().to_dict()]
    named = [value for config in configs for key, value in config.items() if re.search(r"_token_(id|index)$", key)]
    ids = [token for value in named for token in (value if isinstance(value, list) else [value])]
    return frozenset(token for token in ids if isinstance(token, int)).union(
        tokenizer.all_special_ids if tokenizer else ()
    )
